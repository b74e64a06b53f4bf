"""A virtual environment for each peer, from the versions in its file."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from uv import find_uv_bin

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
INSTALL_SECONDS = 900.0


def interpreter_of(module: str) -> Path:
    """The interpreter of a peer's environment, which is made first if need be.

    Raises RuntimeError with what uv says if it cannot be.
    """
    requirements = HERE / f"{module}.txt"
    folder = Path(sys.prefix) / "peers" / module
    python, stamp = folder / "bin" / "python", folder / "installed"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != digest:
        _uv("venv", "--clear", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), "-r", str(requirements))
        stamp.write_text(digest)
    return python


def _uv(*arguments: str) -> None:
    command = [find_uv_bin(), "--no-config", "--quiet", *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"it cannot be installed: {done.stderr.strip()[-300:]}")
