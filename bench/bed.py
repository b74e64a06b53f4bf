"""The real thing to be measured: servers and workers as processes, with a database and tokens."""

from __future__ import annotations

import compileall
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct

import task_server
from bench.databases import databases
from bench.http import Connection
from bench.targets import DatabaseKind
from task_server.server.administration import create_token

COMMAND = (sys.executable, "-m", "task_server.cli")
READY = "task-server ready on "
PACKAGE = Path(task_server.__file__).parent
SLOTS = 2
"""Of all workers together."""
JOIN_SECONDS = 300.0
STOP_SECONDS = 30.0

Process = subprocess.Popen[str]


class Place(Struct, frozen=True):
    """What a bed is made of."""

    database: DatabaseKind = "sqlite"
    servers: int = 1

    @property
    def name(self) -> str:
        """For people."""
        database = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}[self.database]
        return f"{database}, {self.servers} server{'s' * (self.servers > 1)}"


class Bed(Struct, frozen=True):
    """Running servers and workers."""

    place: Place
    urls: list[str]
    """Of each server."""
    token: str
    """A user's."""
    worker_token: str
    servers: list[int]
    """Process ids."""
    agents: list[int]
    databases: list[int]
    folder: Path
    """With the data of each (`server-0`, `worker-0` ...) and the worker's log beside it."""

    @property
    def url(self) -> str:
        """Of the first server."""
        return self.urls[0]

    def connect(self, server: int = 0) -> Connection:
        """A connection of a user."""
        return Connection(self.urls[server], self.token)


class Server:
    """A server alone, ready once this returns; `options` as for `task-server serve`."""

    def __init__(
        self, data: Path, *options: str, variables: Mapping[str, str] | None = None
    ) -> None:
        data.mkdir(exist_ok=True, mode=0o700)
        log = data / "log"
        command = ("serve", "--port", "0", "--data", str(data), *options)
        self._process = _start(log, *command, variables=variables)
        self.url = _url(self._process, log)

    @property
    def process_id(self) -> int:
        """Of the server's process."""
        return self._process.pid

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """End it in order."""
        _stop(self._process)


@contextmanager
def bed(
    place: Place | None = None,
    parent: Path | None = None,
    *,
    workers: int | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Bed]:
    """Servers with a fresh database, and workers with two slots in all; stopped after the block.

    One worker a server, or as many as `workers` says; `variables` are further ones of all.
    """
    place = place or Place()
    # As an installed package has it; some shells forbid Python to write byte code.
    compileall.compile_dir(PACKAGE, quiet=2)
    count = place.servers if workers is None else workers
    with ExitStack() as stack:
        made = stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=parent))
        (database,) = stack.enter_context(databases(place.database, "tasks", parent=parent))
        folder = Path(made)
        folder.chmod(0o711)  # runners work for other users
        options = ("--database", database.url, "--blobs", str(folder / "blobs"))
        servers = []
        for number in range(place.servers):
            servers.append(Server(folder / f"server-{number}", *options, variables=variables))
            stack.callback(servers[-1].stop)
        user, worker = (
            create_token(database.url, kind="user", name="bench"),
            create_token(database.url, kind="worker", name="bench"),
        )
        agents = []
        for number in range(count):
            url = servers[number % len(servers)].url
            data = folder / f"worker-{number}"
            agents.append(_worker(url, data, worker, SLOTS // count, variables))
            stack.callback(_stop, agents[-1])
        urls = [server.url for server in servers]
        if count:
            _await_workers(Connection(urls[0], user), count, folder)
        yield Bed(
            place=place,
            urls=urls,
            token=user,
            worker_token=worker,
            servers=[server.process_id for server in servers],
            agents=[agent.pid for agent in agents],
            databases=database.processes,
            folder=folder,
        )


def _worker(
    url: str, data: Path, token: str, slots: int, variables: Mapping[str, str] | None
) -> Process:
    options = ("--server", url, "--token", token, "--data", str(data), "--slots", str(slots))
    return _start(data.with_suffix(".log"), "worker", *options, variables=variables)


def _start(log: Path, *arguments: str, variables: Mapping[str, str] | None = None) -> Process:
    environ = {name: value for name, value in os.environ.items() if "TASK_SERVER" not in name}
    with log.open("w") as errors:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**environ, **(variables or {})},
        )


def _url(server: Process, log: Path) -> str:
    assert server.stdout is not None
    line = server.stdout.readline()
    if not line.startswith(READY):
        raise RuntimeError(f"the server did not start:\n{log.read_text()}")
    return line.removeprefix(READY).strip()


def _await_workers(connection: Connection, count: int, folder: Path) -> None:
    end = time.monotonic() + JOIN_SECONDS
    while connection.get("/v1/workers").count(b'"live"') < count:
        if time.monotonic() > end:
            told = "\n".join(log.read_text() for log in folder.glob("worker-*.log"))
            raise RuntimeError(f"the workers did not join:\n{told}")
        time.sleep(0.05)


def _stop(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.communicate(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def end_in_order() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what it started ends first."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


def places(kinds: Sequence[DatabaseKind], servers: Sequence[int]) -> list[Place]:
    """What is asked for. A file of SQLite belongs to one server."""
    asked = [Place(kind, count) for kind in kinds for count in servers]
    return [place for place in asked if place.database != "sqlite" or place.servers == 1]
