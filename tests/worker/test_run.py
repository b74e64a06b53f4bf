from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = (sys.executable, "-m", "task_server.cli", "worker")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("server", "token", "reason"),
    [
        ("127.0.0.1:1", "token", "no server's URL"),
        ("http://127.0.0.1:1", "to\nken", "line break"),
    ],
)
def test_a_worker_that_cannot_ask_anyone_says_why_and_ends(
    tmp_path: Path, server: str, token: str, reason: str
) -> None:
    options = ("--server", server, "--token", token, "--data", str(tmp_path / "data"))

    ended = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False)

    assert ended.returncode == 1
    assert reason in ended.stderr and "Traceback" not in ended.stderr
