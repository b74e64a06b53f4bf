"""A server and a worker of the demo's own: started on a free port, stopped by a signal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

READY = "task-server ready on "
STOP_SECONDS = 30


@contextmanager
def task_server() -> Iterator[str]:
    """The URL of a fresh server with one worker; both are gone when the block ends."""
    with tempfile.TemporaryDirectory(prefix="task-server-demo-") as folder:
        # Its own profile, so that the one of a server that people use stays as it is.
        os.environ["TASK_SERVER_PROFILE"] = str(Path(folder) / "profile.json")
        for name in ("TASK_SERVER_URL", "TASK_SERVER_TOKEN"):
            os.environ.pop(name, None)
        log = Path(folder) / "up.log"
        process = _start(Path(folder) / "data", log)
        try:
            yield _url(process, log)
        finally:
            _stop(process)


def _start(data: Path, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "task_server.cli", "up", "--port", "0", "--data", str(data)]
    with log.open("w") as errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)


def _url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith(READY):
        raise RuntimeError(f"task-server did not start:\n{log.read_text()}")
    return line.removeprefix(READY).strip()


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    process.kill()  # which does nothing to one that has ended
    process.wait()
