"""Servers started in another way than usual: watched by strace, or made to fail."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e import system_calls
from tests.e2e.processes import COMMAND, Place, Process, until
from tests.e2e.system_calls import Call, parse
from tests.e2e.wire import Connection
from tests.folders import let_others_enter

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]
"""Parameters of fixtures for places on either database."""
FAILING = (sys.executable, str(Path(__file__).with_name("failing_server.py")))
"""Starts `task-server` with one fault; the first argument names it."""


def database_for(request: pytest.FixtureRequest) -> str | None:
    """The URL of a new database of the kind that a fixture is run for; None: the place's own."""
    if request.param == "postgres":
        return str(request.getfixturevalue("database"))
    return None


def needs_strace() -> None:
    """Skip a test where strace cannot be used; in CI it has to be there."""
    why = why_no_strace()
    if why:
        assert "CI" not in os.environ, f"{why}: the order on disk cannot be proved"
        pytest.skip(why)


def why_no_strace() -> str:
    """Why strace cannot be used here; empty when it can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    trial = ["strace", "-f", "--seccomp-bpf", "-qqq", "-o", os.devnull, "true"]
    done = subprocess.run(trial, capture_output=True, text=True, timeout=30, check=False)
    return "" if done.returncode == 0 else f"strace cannot trace here: {done.stderr.strip()}"


class Below(Process):
    """A process that another one started for us; signals go to the inner one."""

    @property
    def pid(self) -> int:
        inner = self._inner()
        assert inner is not None, self.output()
        return inner

    def _inner(self) -> int | None:
        outer = self.popen.pid
        with contextlib.suppress(OSError):
            listed = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
            return int(listed[0]) if listed else None
        return None

    def kill(self) -> None:
        """End both at once."""
        inner = self._inner() if self.popen.poll() is None else None
        if inner is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, signal.SIGKILL)
        else:
            self.popen.kill()
        self.popen.wait(timeout=30)

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)


class WatchedPlace(Place):
    """A place whose server can be started by another program."""

    def __init__(self, folder: Path, *options: str, database: str | None = None) -> None:
        super().__init__(folder, *options, database=database)
        self.program: Sequence[str] = COMMAND
        """What `serve` starts in place of `task-server`."""
        self._connections: list[Connection] = []

    def _start(
        self, command: list[str], log: str, environ: dict[str, str] | None = None
    ) -> Process:
        if log != "server.log":
            return super()._start(command, log, environ)
        started = [*self.program, *command[len(COMMAND) :]]
        kind = Below if self.program[0] == "strace" else Process
        process = kind(started, self.folder / log, environ)
        self._processes.append(process)
        return process

    def begin_to_serve(self) -> Process:
        """Start the server on the port that it had before, and do not wait for it."""
        port = self.url.rpartition(":")[2]
        command = [*COMMAND, "serve", "--port", port, "--data", str(self.data), *self._options]
        self.server = self._start(command, "server.log")
        return self.server

    def connection(self, token: str | None = None) -> Connection:
        """A connection to the server, closed at the end."""
        connection = Connection(self.url, token)
        self._connections.append(connection)
        return connection

    def end(self) -> None:
        """End all that still runs."""
        for connection in self._connections:
            connection.close()
        super().end()

    # ---- strace

    def watch(self, *faults: str, longest: int = 8192, calls: Iterable[str] | None = None) -> Path:
        """Have strace watch servers started from now on; gives the file that it writes.

        `faults` are injected, in strace's words; `longest`: bytes that it keeps of a buffer.
        """
        trace = self.folder / f"trace-{len(self._processes)}"
        chosen = system_calls.CALLS if calls is None else calls
        tracing = system_calls.command(str(trace), longest=longest, calls=chosen, faults=faults)
        self.program = [*tracing, *self.program]
        return trace

    def break_server(self, fault: str) -> None:
        """Have servers that are started from now on fail in this way (`failing_server.py`)."""
        self.program = [*FAILING, fault]

    def mend_server(self) -> None:
        """Have servers that are started from now on be as they are."""
        self.program = COMMAND


def calls_in(trace: Path) -> list[Call]:
    """What strace saw; the watched server must have ended."""
    with trace.open() as lines:
        return parse(lines)


@contextmanager
def watched_place(
    factory: pytest.TempPathFactory, *options: str, database: str | None = None
) -> Iterator[WatchedPlace]:
    """A place in a folder of its own with a port; whatever runs in it ends with the block."""
    with place_in(factory.mktemp("place"), *options, database=database) as here:
        yield here


@contextmanager
def place_in(folder: Path, *options: str, database: str | None = None) -> Iterator[WatchedPlace]:
    """A place in this folder."""
    # Runners may work under other uids, to which folders of this user's are closed.
    let_others_enter(folder)
    folder.chmod(0o755)
    here = WatchedPlace(folder, *options, database=database)
    here.choose_port()
    try:
        yield here
    finally:
        here.end()


def ends(process: Process, seconds: float = 30.0) -> int:
    """Wait until a process has ended by itself; its exit status."""
    until(lambda: not process.is_alive(), seconds, "the process ends")
    return int(process.popen.returncode)
