"""The real thing to be measured: a server and a worker as processes, on SQLite, with tokens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from bench.http import Connection

COMMAND = (sys.executable, "-m", "task_server.cli")
READY = "task-server ready on "
SLOTS = 2
JOIN_SECONDS = 30.0
STOP_SECONDS = 30.0

Process = subprocess.Popen[str]


class Bed(Struct, frozen=True):
    """A running server and worker."""

    url: str
    token: str
    server: int
    """Process id."""
    agent: int
    folder: Path
    """With the server's `data`, the `worker`'s and their `log`."""

    def connect(self) -> Connection:
        """A connection of a user."""
        return Connection(self.url, self.token)


class Server:
    """A server alone, ready once this returns; `options` as for `task-server serve`."""

    def __init__(self, data: Path, *options: str) -> None:
        log = data / "log"
        with log.open("w") as errors:
            arguments = ("serve", "--port", "0", "--data", str(data), *options)
            self._process = _start(errors.fileno(), *arguments)
        self.url = _url(self._process, log)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()


@contextmanager
def bed(parent: Path | None = None) -> Iterator[Bed]:
    """A server and a worker with a fresh data directory; stopped when the block ends."""
    with tempfile.TemporaryDirectory(prefix="task-server-bench-", dir=parent) as folder:
        data, log = Path(folder) / "data", Path(folder) / "log"
        with log.open("w") as errors:
            server = _start(errors.fileno(), "serve", "--port", "0", "--data", str(data))
            try:
                url = _url(server, log)
                token = _token(data, "worker")
                worker = _start(errors.fileno(), *_worker(url, Path(folder) / "worker", token))
                try:
                    user = _token(data, "user")
                    _await_worker(Connection(url, user), log)
                    yield Bed(url, user, server.pid, worker.pid, Path(folder))
                finally:
                    _stop(worker)
            finally:
                _stop(server)


def _start(errors: int, *arguments: str) -> Process:
    environ = {name: value for name, value in os.environ.items() if "TASK_SERVER" not in name}
    return subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environ
    )


def _worker(url: str, data: Path, token: str) -> tuple[str, ...]:
    options = ("--server", url, "--token", token, "--data", str(data), "--slots", str(SLOTS))
    return ("worker", *options)


def _url(server: Process, log: Path) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line.startswith(READY):
        raise RuntimeError(f"the server did not start:\n{log.read_text()}")
    return line.removeprefix(READY).strip()


def _token(data: Path, kind: Literal["user", "worker"]) -> str:
    command = [*COMMAND, "token", "create", "--kind", kind, "--data", str(data)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _await_worker(connection: Connection, log: Path) -> None:
    end = time.monotonic() + JOIN_SECONDS
    while b'"live"' not in connection.get("/v1/workers"):
        if time.monotonic() > end:
            raise RuntimeError(f"the worker did not join:\n{log.read_text()}")
        time.sleep(0.05)


def _stop(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
