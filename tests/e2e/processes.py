"""Servers and workers as processes of their own, in one folder: started, killed, started again."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest

from task_server.client.client import Client
from task_server.server.administration import create_token
from task_server.settings import database_url_in

COMMAND = (sys.executable, "-m", "task_server.cli")
READY = re.compile(r"task-server ready on (http://\S+)")
START_SECONDS = 30.0
STOP_SECONDS = 15.0
figures = logging.getLogger("figures").info
"""What a test measures; `--log-cli-level=INFO` tells it."""


def until(happened: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Wait until it is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what or happened}"
        time.sleep(0.02)


def clean_environ() -> dict[str, str]:
    """This process's variables, without settings of a task server."""
    environ = {name: value for name, value in os.environ.items() if "TASK_SERVER" not in name}
    return environ | {"PYTHONUNBUFFERED": "1", "PATH": path_without_shims()}


def path_without_shims() -> str:
    """PATH without pyenv's shims: each worker would wait for all that start no Python."""
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(each for each in folders if Path(each).name != "shims")


class Process:
    """A process, and the file that its output goes to."""

    def __init__(self, command: list[str], log: Path, environ: dict[str, str] | None = None):
        self.log = log
        self._offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as file:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=clean_environ() | (environ or {}),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_bytes()[self._offset :].decode(errors="replace")

    def waits_for(self, text: str) -> None:
        """Wait until it has written this."""
        until(
            lambda: text in self.output() or self.popen.poll() is not None, START_SECONDS, what=text
        )
        assert text in self.output(), self.output()

    def is_alive(self) -> bool:
        return self.popen.poll() is None

    def kill(self) -> None:
        """End it at once, as a loss of power would."""
        self.popen.kill()
        self.popen.wait()

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = STOP_SECONDS) -> int:
        """SIGTERM, and its exit status."""
        self.terminate()
        return self.popen.wait(timeout=seconds)


class Place:
    """A server's data and its workers' below one folder.

    `database`: a URL; None: the SQLite file in the server's data.
    """

    def __init__(self, folder: Path, *options: str, database: str | None = None) -> None:
        self.folder = folder
        self.data = folder / "server"
        self.database = database or database_url_in(self.data)
        self.shared = folder / "shared"
        """Where functions leave signs; everything else of the machine is closed to them."""
        self.shared.mkdir(exist_ok=True)
        self.shared.chmod(0o777)
        self.url = ""
        self.server: Process | None = None
        options = ("--ballast-bytes", "1048576", *options)  # these tests leave many folders
        self._options = options if database is None else (*options, "--database", database)
        self._processes: list[Process] = []
        self._tokens: dict[str, str] = {}

    def serve(self, environ: dict[str, str] | None = None) -> Process:
        """Start the server, on the port that it had before; `environ`: more variables."""
        port = self.url.rpartition(":")[2] or "0"
        command = [*COMMAND, "serve", "--port", port, "--data", str(self.data), *self._options]
        self.server = self._start(command, "server.log", environ)
        self.server.waits_for("ready on")
        found = READY.search(self.server.output())
        assert found is not None
        self.url = found[1]
        return self.server

    def serve_also(
        self, name: str, *, port: int = 0, environ: dict[str, str] | None = None
    ) -> tuple[Process, str]:
        """Start one more server on the same database and blobs; its process and its URL."""
        command = [*COMMAND, "serve", "--port", str(port), "--data", str(self.folder / name)]
        command += ["--blobs", str(self.data / "blobs"), *self._options]
        server = self._start(command, f"{name}.log", environ)
        server.waits_for("ready on")
        found = READY.search(server.output())
        assert found is not None
        return server, found[1]

    def choose_port(self) -> None:
        """Settle where the server will be before it is started."""
        import socket

        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{chosen.getsockname()[1]}"

    def token_of(self, worker: str) -> str:
        """The token that a worker of that name was started with."""
        return self._tokens[worker]

    def sign(self, name: str) -> Path:
        """An empty file that functions may write into, whichever user each of them is."""
        path = self.shared / name
        path.touch()
        path.chmod(0o666)
        return path

    def worker(
        self,
        name: str = "worker",
        *,
        slots: int = 2,
        waits: bool = True,
        url: str = "",
        command: Sequence[str] = COMMAND,
        environ: dict[str, str] | None = None,
    ) -> Process:
        """Start a worker with a data folder of that name; `waits` until it has joined.

        `url` is another way to the server, `command` another way to start `task-server`, `environ`
        more variables.
        """
        started = [*command, "worker", "--server", url or self.url, "--slots", str(slots)]
        started += ["--data", str(self.folder / name), "--name", name]
        started += ["--writable", str(self.shared)]
        token = self._tokens.get(name) or self.token("worker", f"{name}'s")
        self._tokens[name] = token  # a worker that comes back is known by it
        variables = {"TASK_SERVER_TOKEN": token, **(environ or {})}
        worker = self._start(started, f"{name}.log", variables)
        if waits:
            worker.waits_for("joined as")
        return worker

    def run(self, command: list[str], name: str, environ: dict[str, str]) -> Process:
        """Start another program."""
        return self._start(command, f"{name}.log", environ)

    def _start(
        self, command: list[str], log: str, environ: dict[str, str] | None = None
    ) -> Process:
        process = Process(command, self.folder / log, environ)
        self._processes.append(process)
        return process

    def token(self, kind: Literal["user", "worker", "admin"], name: str = "") -> str:
        """A new token; tokens of one name belong to one owner."""
        self.data.mkdir(parents=True, exist_ok=True)
        return create_token(self.database, kind=kind, name=name)

    def client(self, name: str = "somebody", url: str = "") -> Client:
        """A client with a user's token; `url` is another way to the server."""
        return Client(url or self.url, self.token("user", name))

    def end(self) -> None:
        """End all that still runs."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@contextmanager
def place(
    factory: pytest.TempPathFactory, *options: str, database: str | None = None
) -> Iterator[Place]:
    """A place in a folder of its own; whatever runs in it ends with the block."""
    folder = factory.mktemp("place")
    # Runners may work under other uids, to which folders of this user's are closed.
    for each in (folder, *folder.parents[:2]):
        each.chmod(each.stat().st_mode | 0o055)
    place = Place(folder, *options, database=database)
    try:
        yield place
    finally:
        place.end()


def runners_of(worker: Process) -> list[int]:
    """Process ids of a worker's runners (Linux)."""
    listed = Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split()
    found = []
    for pid in listed:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            if b"child" in command and b"py_compile" not in command:
                found.append(int(pid))
    return found


def is_there(pid: int) -> bool:
    """Whether a process runs, or is suspended (Linux)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


def suspend(worker: Process) -> list[int]:
    """Stop a worker and its runners where they are, as a machine that sleeps; gives the runners."""
    os.kill(worker.pid, signal.SIGSTOP)
    runners = runners_of(worker)
    for pid in runners:
        os.kill(pid, signal.SIGSTOP)
    return runners


def resume(worker: Process, runners: Iterable[int]) -> None:
    """Let a suspended worker and its runners go on."""
    for pid in (*runners, worker.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def resident_bytes(process: Process) -> int:
    """Memory that a process uses (Linux)."""
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(process: Process) -> int:
    """The most memory that a process has ever used (Linux)."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def descriptors(process: Process) -> int:
    """How many files and sockets a process has open (Linux)."""
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
