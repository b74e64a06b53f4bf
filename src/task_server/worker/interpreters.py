"""The Pythons of this machine."""

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_MINORS: Final = range(9, 16)
_PROBE: Final = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"


@functools.cache
def pythons() -> dict[str, Path]:
    """The interpreters of this machine that really start, by minor version ("3.11").

    Those of the system come first: other users can reach them, unlike one in somebody's home.
    """
    found = {}
    for minor in _MINORS:
        for candidate in _candidates(f"python3.{minor}"):
            if _starts(candidate, f"3.{minor}"):
                found[f"3.{minor}"] = candidate
                break
    return found


def _candidates(name: str) -> Iterator[Path]:
    yield Path("/usr/bin") / name
    if name == f"python3.{sys.version_info.minor}":
        yield Path(getattr(sys, "_base_executable", sys.executable))
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        yield Path(folder) / name


def _starts(interpreter: Path, python: str) -> bool:
    if not interpreter.is_absolute() or not os.access(interpreter, os.X_OK):
        return False
    command = [str(interpreter), "-I", "-S", "-c", _PROBE]
    try:
        probe = subprocess.run(command, capture_output=True, timeout=10, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return probe.stdout.split() == ["cpython", python]
