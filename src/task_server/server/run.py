"""`serve`: listen until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket

import uvicorn

from task_server.errors import TaskServerError
from task_server.machine import is_loopback
from task_server.process import log_to_stderr, loop_factory, settle_heap
from task_server.server.app import running
from task_server.server.receipt import PunctualProtocol
from task_server.server.state import State
from task_server.settings import ServerSettings

log = logging.getLogger(__name__)

DRAIN_SECONDS = 8
KEEP_ALIVE_SECONDS = 75
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
    broken = asyncio.Event()
    _warn_of_strangers(settings)
    listener = _listen(settings)
    async with running(settings, on_broken=broken.set) as (state, edge):
        config = uvicorn.Config(
            edge,
            loop="none",
            http=PunctualProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        asyncio.get_running_loop().set_exception_handler(state.descriptors.on_loop_error)
        server = _Server(config, state)
        stopper = asyncio.ensure_future(_stop_when(broken, server))
        settle_heap()
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"task-server ready on http://{shown}:{port}", flush=True)  # noqa: T201  # the one line that programs wait for
        await server.serve(sockets=[listener])
        stopper.cancel()
    return 1 if broken.is_set() else 0


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


class _Server(uvicorn.Server):
    """uvicorn, which lets those who wait go before it stops."""

    def __init__(self, config: uvicorn.Config, state: State) -> None:
        super().__init__(config)
        self._state = state

    def handle_exit(self, sig: int, frame: object) -> None:
        """A signal: stop taking work, end long polls, finish open requests."""
        log.info("%s: stopping", signal.Signals(sig).name)
        self.stop()

    def stop(self) -> None:
        """Begin to stop."""
        self._state.is_stopping = True
        self._state.waiting.close()
        self._state.store.release_parked()
        self.should_exit = True


async def _stop_when(broken: asyncio.Event, server: _Server) -> None:
    await broken.wait()
    log.error("the database can no longer be written; exiting, so that a restart reads it anew")
    server.stop()
