"""A server and one worker on this machine, as two processes that this one keeps running.

The server starts first, on a restart too on the port that it had; then tokens and profile are
made, and the worker joins. On SIGTERM or SIGINT the worker drains, then the server stops.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from task_server.cli.long_running import PARENT
from task_server.cli.output import rows_of
from task_server.client import requests
from task_server.client.http import HttpTransport
from task_server.client.profile import Profile, profile_path, read_profile, write_profile
from task_server.errors import RequestError, ServerUnreachable, Unauthorized
from task_server.options import settings_of
from task_server.settings import ServerSettings

READY = "task-server ready on "
JOIN_SECONDS = 60.0
"""How long the worker may take to join."""
_LOOK_SECONDS = 0.05
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0

T = TypeVar("T")
Seen = tuple[str | None, str | None, str | None]
"""A worker's id, when it joined and when it was last heard of."""

log = logging.getLogger(__name__)


def up(settings: ServerSettings, slots: int | None) -> int:
    """Run until a signal says stop; the exit status."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s up %(message)s")
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    return asyncio.run(_Up(settings, slots).run())


_PRIVATE = ("private_index", "private_packages")
_SERVERS_POLICY = {"TASK_SERVER_ALLOWED_PACKAGES": ""}
"""What tasks may name says the server; what those need, its own worker installs."""


class _Up:
    """The two processes and what is known of them."""

    def __init__(self, settings: ServerSettings, slots: int | None) -> None:
        self._settings = settings
        self._slots = slots
        self._name = socket.gethostname()
        self._stop = asyncio.Event()
        self._server = _Child("server", _serve_command(settings), _private(settings))
        self._worker: _Child | None = None
        self._url = ""

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        try:
            status = await self._start()
            return status if status is not None else await self._keep_running()
        finally:
            await self._end()

    async def _start(self) -> int | None:
        """Start both and say so; a status if that failed or was stopped."""
        url = await self._start_server()
        if url is None:
            return 0 if self._stop.is_set() else self._server.status or 1
        self._url = url
        # From now on a restarted server must be found where this one was.
        self._server.command = _serve_command(self._settings, port=int(url.rpartition(":")[2]))
        token, worker_token = await asyncio.to_thread(self._tokens)
        environ = {**_with_token(worker_token), **_private(self._settings), **_SERVERS_POLICY}
        self._worker = _Child("worker", self._worker_command(), environ)
        transport = HttpTransport(url, token)
        before = await asyncio.to_thread(_live_workers, transport)
        await self._worker.start()
        if not await self._has_joined(transport, before):
            return 0 if self._stop.is_set() else self._worker.status or 1
        print(READY + url, flush=True)
        return None

    async def _start_server(self) -> str | None:
        """Its URL once it takes requests; None when it ended or is to stop."""
        await self._server.start()
        line = await self._until_stop(self._server.first_line())
        if line is None or not line.startswith(READY):
            return None
        return line.removeprefix(READY).strip()

    async def _keep_running(self) -> int:
        assert self._worker is not None
        keepers = [
            asyncio.create_task(self._server.keep()),
            asyncio.create_task(self._worker.keep()),
        ]
        # The server ends with 0 only when somebody stopped it; then all is to stop. A worker that
        # was drained from outside leaves the server running.
        await self._until_stop(keepers[0])
        for task in keepers:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        return 0

    async def _end(self) -> None:
        """Let the worker drain, then stop the server."""
        if self._worker is not None:
            self._worker.terminate()
            await self._worker.ended()
        self._server.terminate()
        await self._server.ended()

    def _on_signal(self) -> None:
        if self._stop.is_set() and self._worker is not None:
            self._worker.terminate()  # the second signal: give everything back now
        self._stop.set()

    async def _until_stop(self, task: asyncio.Task[T]) -> T | None:
        """What the task returns; None if it is time to stop before."""
        stop = asyncio.create_task(self._stop.wait())
        both: list[asyncio.Task[Any]] = [stop, task]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        return task.result() if task.done() else None

    async def _has_joined(self, transport: HttpTransport, before: set[Seen]) -> bool:
        assert self._worker is not None
        end = asyncio.get_running_loop().time() + JOIN_SECONDS
        while not (self._stop.is_set() or self._worker.has_ended()):
            # A worker that was killed a moment ago is shown as live too, but as seen before.
            if await asyncio.to_thread(_live_workers, transport) - before:
                return True
            if asyncio.get_running_loop().time() > end:
                log.error("the worker did not join within %d s", JOIN_SECONDS)
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _worker_command(self) -> list[str]:
        data = str(self._settings.data / "worker")
        command = ["worker", "--server", self._url, "--data", data, "--name", self._name]
        return command if self._slots is None else [*command, "--slots", str(self._slots)]

    def _tokens(self) -> tuple[str | None, str | None]:
        """Tokens of this user and of the worker; leaves the profiles that hold them."""
        kept, workers = self._settings.data / "profile.json", self._settings.data / "worker.json"
        last = read_profile(kept)
        # Where no token is asked for, the one of an earlier time is kept for a later one.
        token, worker_token = last.token if last else None, None
        if self._settings.auth == "on":
            token = self._kept_token(kept, "admin")
            worker_token = self._kept_token(workers, "worker")
            write_profile(workers, Profile(self._url, worker_token))
        for path in (kept, profile_path()):
            write_profile(path, Profile(self._url, token))
        return token, worker_token

    def _kept_token(self, path: Path, kind: Literal["admin", "worker"]) -> str:
        """A token that owns what was submitted at earlier starts; a new one the first time."""
        profile = read_profile(path)
        if profile is not None and profile.token and self._is_known(profile.token):
            return profile.token
        from task_server.server.administration import create_token

        return create_token(self._settings.database_url, kind=kind, name=f"up on {self._name}")

    def _is_known(self, token: str) -> bool:
        reply = HttpTransport(self._url, token).request(requests.list_workers(), timeout=10)
        return reply.status != Unauthorized.status


class _Child:
    """A process of ours, started again when it fails."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str]) -> None:
        self.command = command
        self.status: int | None = None
        self._name = name
        self._environ = {**os.environ, **environ, PARENT: str(os.getpid())}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        # In a session of its own, so that Ctrl-C reaches only this process, which stops in order.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "task_server.cli",
            *self.command,
            env=self._environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    def first_line(self) -> asyncio.Task[str]:
        return asyncio.create_task(self._first_line())

    async def keep(self) -> None:
        """Start it again whenever it fails; returns when it ends with 0."""
        pause = _FIRST_PAUSE
        while (status := await self.ended()) != 0:
            log.error("the %s ended with status %s; starting it again", self._name, status)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
            await self.start()
        log.warning("the %s has stopped", self._name)

    def has_ended(self) -> bool:
        return self._process is None or self._process.returncode is not None

    async def ended(self) -> int:
        """Its exit status, when it has ended."""
        if self._process is None:
            return 0
        assert self._process.stdout is not None
        while await self._process.stdout.read(65536):
            pass  # a full pipe would stop it
        self.status = await self._process.wait()
        return self.status

    def terminate(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    async def _first_line(self) -> str:
        assert self._process is not None and self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            self.status = await self._process.wait()
        return line.decode()


def _serve_command(settings: ServerSettings, port: int | None = None) -> list[str]:
    values = {name: getattr(settings, name) for name in settings_of(ServerSettings)}
    values["port"] = settings.port if port is None else port
    command = ["serve"]
    for name, setting in settings_of(ServerSettings).items():
        if values[name] is not None and name not in _PRIVATE:
            command += [setting.option, str(values[name])]
    return command


def _private(settings: ServerSettings) -> dict[str, str]:
    """The private index, whose URL may hold a password, for server and worker alike."""
    known = settings_of(ServerSettings)
    given = {name: getattr(settings, name) for name in _PRIVATE}
    return {known[name].variable: value for name, value in given.items() if value is not None}


def _with_token(token: str | None) -> dict[str, str]:
    # By the environment: a command line can be read by every user of the machine.
    return {} if token is None else {"TASK_SERVER_TOKEN": token}


def _live_workers(transport: HttpTransport) -> set[Seen]:
    try:
        reply = requests.accepted(transport.request(requests.list_workers(), timeout=10))
    except (RequestError, ServerUnreachable) as error:
        log.warning("cannot see the workers yet: %s", error)
        return set()
    rows = rows_of(reply.body, "workers")
    return {
        (row.get("id"), row.get("joined_at"), row.get("seen_at"))
        for row in rows
        if row.get("state") == "live"
    }
