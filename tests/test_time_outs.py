"""A test whose clean-up hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HANGS = """
import time
import pytest

@pytest.fixture
def hanging():
    yield
    try:
        time.sleep(60)
    finally:
        time.sleep(60)

def test_one(hanging):
    {body}

def test_two():
    pass
"""


@pytest.mark.parametrize("body", ["pass", "assert False", "time.sleep(60)"])
def test_it_is_ended_and_the_next_goes_on(tmp_path: Path, body: str) -> None:
    (tmp_path / "test_it.py").write_text(HANGS.format(body=body))
    command = [sys.executable, "-m", "pytest", "-p", "tests.time_outs", "-o", "timeout=0.3"]
    command += ["-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "1 error" in done.stdout and done.returncode == 1, done.stdout + done.stderr
    assert ("2 passed" if body == "pass" else "1 failed, 1 passed") in done.stdout
