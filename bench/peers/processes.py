"""Processes of a peer, which end with it. Standard library only."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

REDIS = "BENCH_REDIS"
START_SECONDS = 60.0
STOP_SECONDS = 10.0
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class Processes:
    """Starts processes in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def redis(self, options: Sequence[str]) -> None:
        """Start a Redis server; the variable REDIS has its URL from then on."""
        program = shutil.which("redis-server")
        if program is None:
            raise RuntimeError("redis-server is not there: apt-get install redis-server")
        port = free_port()
        place = ("--bind", "127.0.0.1", "--port", str(port), "--dir", str(self.folder))
        self.start(program, *place, *options)
        self.await_port(port)
        os.environ[REDIS] = f"redis://127.0.0.1:{port}/0"

    def python(self, *arguments: str) -> None:
        """Start this interpreter."""
        self.start(sys.executable, *arguments)

    def start(self, *command: str) -> None:
        """Start a program; what it says goes to a file."""
        with (self.folder / "log").open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    preexec_fn=_end_with_parent,
                )
            )

    def await_port(self, port: int) -> None:
        """Wait until somebody listens there."""
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise RuntimeError(f"nothing listens on port {port}") from None
                time.sleep(0.05)

    def stop(self) -> None:
        """End them, the youngest first."""
        for process in reversed(self._started):
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            process.kill()  # which does nothing to one that has ended
            process.wait()


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def program(name: str) -> str:
    """A program of this interpreter's environment."""
    return str(Path(sys.executable).parent / name)


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, int(signal.SIGKILL))
