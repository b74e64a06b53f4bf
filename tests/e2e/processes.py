"""Servers and workers as processes of their own, in one folder: started, killed, started again."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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


def until(happened: Callable[[], object], seconds: float = 30.0, what: str = "") -> None:
    """Wait until it is true."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what or happened}"
        time.sleep(0.02)


def clean_environ() -> dict[str, str]:
    """This process's variables, without settings of a task server."""
    environ = {name: value for name, value in os.environ.items() if "TASK_SERVER" not in name}
    return environ | {"PYTHONUNBUFFERED": "1"}


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
    """A server's data and its workers' below one folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.data = folder / "server"
        self.url = ""
        self.server: Process | None = None
        self._options = options
        self._processes: list[Process] = []
        self._tokens: dict[str, str] = {}

    def serve(self) -> Process:
        """Start the server, on the port that it had before."""
        port = self.url.rpartition(":")[2] or "0"
        command = [*COMMAND, "serve", "--port", port, "--data", str(self.data), *self._options]
        self.server = self._start(command, "server.log")
        self.server.waits_for("ready on")
        found = READY.search(self.server.output())
        assert found is not None
        self.url = found[1]
        return self.server

    def choose_port(self) -> None:
        """Settle where the server will be before it is started."""
        import socket

        with socket.socket() as chosen:
            chosen.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{chosen.getsockname()[1]}"

    def worker(self, name: str = "worker", *, slots: int = 2, waits: bool = True) -> Process:
        """Start a worker with a data folder of that name; `waits` until it has joined."""
        command = [*COMMAND, "worker", "--server", self.url, "--slots", str(slots)]
        command += ["--data", str(self.folder / name), "--name", name]
        token = self._tokens.get(name) or self.token("worker", f"{name}'s")
        self._tokens[name] = token  # a worker that comes back is known by it
        worker = self._start(command, f"{name}.log", {"TASK_SERVER_TOKEN": token})
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
        return create_token(database_url_in(self.data), kind=kind, name=name)

    def client(self, name: str = "somebody") -> Client:
        """A client with a user's token."""
        return Client(self.url, self.token("user", name))

    def end(self) -> None:
        """End all that still runs."""
        for process in reversed(self._processes):
            with contextlib.suppress(ProcessLookupError):
                process.kill()


@contextmanager
def place(factory: pytest.TempPathFactory, *options: str) -> Iterator[Place]:
    """A place in a folder of its own; whatever runs in it ends with the block."""
    folder = factory.mktemp("place")
    # Runners may work under other uids, to which folders of this user's are closed.
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    place = Place(folder, *options)
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
