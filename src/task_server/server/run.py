"""`serve`: listen until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket

from task_server.errors import TaskServerError
from task_server.machine import is_loopback
from task_server.process import log_to_stderr, loop_factory, settle_heap
from task_server.server.app import running
from task_server.server.connection import Connection
from task_server.server.state import State
from task_server.settings import ServerSettings

log = logging.getLogger(__name__)

DRAIN_SECONDS = 8
LOOK_SECONDS = 0.02
BACKLOG = 2048


def serve(settings: ServerSettings) -> int:
    """Run a server; gives its exit status. Prints its one line on stdout when it can be used."""
    log_to_stderr()
    _allow_many_connections()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(_serve(settings))
    except (TaskServerError, OSError) as error:
        log.error("%s", error)
        return 1


def _allow_many_connections() -> None:
    """Take all the descriptors that the system permits: each client that waits needs one."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system lets it
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(settings: ServerSettings) -> int:
    broken, stopped = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    _warn_of_strangers(settings)
    listener = _listen(settings)
    async with running(settings, on_broken=broken.set) as (state, edge):
        loop.set_exception_handler(state.descriptors.on_loop_error)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(stopped.set))
        connections: set[Connection] = set()
        server = await loop.create_server(
            lambda: Connection(edge, connections), sock=listener, backlog=BACKLOG
        )
        settle_heap()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"task-server ready on http://{shown}:{port}", flush=True)  # noqa: T201  # the one line that programs wait for
        await _first_of(broken, stopped)
        if broken.is_set():
            log.error("the database can no longer be written; exiting, so that a restart reads it")
        else:
            log.info("stopping, as a signal asks")
        _release(state)
        server.close()
        await _end(connections)
    return 1 if broken.is_set() else 0


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()


def _release(state: State) -> None:
    """Take no more work, and let those go who wait for some, or for an answer."""
    state.is_stopping = True
    state.waiting.close()
    state.store.release_parked()


async def _end(connections: set[Connection]) -> None:
    """Let open requests finish, so long as that does not take too long."""
    for connection in tuple(connections):
        connection.stop()
    end = asyncio.get_running_loop().time() + DRAIN_SECONDS
    while connections and asyncio.get_running_loop().time() < end:  # noqa: ASYNC110  # only once
        await asyncio.sleep(LOOK_SECONDS)
    for connection in tuple(connections):
        connection.abort()


def _warn_of_strangers(settings: ServerSettings) -> None:
    if not is_loopback(settings.host) and settings.policy.is_open:
        log.warning(
            "others can reach this server, and their tasks may install any package;"
            " --allowed-packages says which"
        )


def _listen(settings: ServerSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise TaskServerError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror};"
            " another --port, or 0 for a free one"
        ) from error
    listener.listen(BACKLOG)
    return listener
