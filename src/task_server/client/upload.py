"""Wheels of the user's own, from a file or built from a project."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from msgspec import Struct

from task_server.client import requests
from task_server.client.requests import value_of
from task_server.client.session import Session
from task_server.errors import TaskServerError

BUILD_SECONDS = 600.0
_TOLD_BYTES = 2000
_BUILT_AT = "315532800"
"""The first moment that a wheel can name: built again, an unchanged project is the same wheel."""


class _Package(Struct):
    name: str
    version: str


def upload(session: Session, path: Path) -> str:
    """Upload a wheel, or the project in a folder, built; gives `name==version`."""
    if not path.is_dir():
        return upload_wheel(session, path)
    with tempfile.TemporaryDirectory(prefix="task-server-build-") as folder:
        return upload_wheel(session, build(path, Path(folder)))


def upload_wheel(session: Session, path: Path) -> str:
    """Upload one wheel; gives `name==version`."""
    try:
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except OSError as error:
        raise TaskServerError(f"{path} cannot be read: {error.strerror}") from error
    session.store_file(digest, path)
    package = value_of(session.send(requests.add_package(path.name, digest)), _Package)
    return f"{package.name}=={package.version}"


def build(project: Path, target: Path) -> Path:
    """Build the wheel of a project into the folder `target`. Raises TaskServerError."""
    if not any((project / name).exists() for name in ("pyproject.toml", "setup.py")):
        raise TaskServerError(f"{project} holds no project: there is no pyproject.toml in it")
    command = [*_builder(), "--wheel", "--out-dir", str(target), str(project)]
    try:
        done = subprocess.run(
            command,
            env={"SOURCE_DATE_EPOCH": _BUILT_AT, **os.environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TaskServerError(f"{project} was not built within {BUILD_SECONDS:g} s") from None
    wheels = sorted(target.glob("*.whl"))
    if done.returncode or not wheels:
        told = done.stdout[-_TOLD_BYTES:].decode(errors="replace").strip()
        raise TaskServerError(f"{project} cannot be built:\n{told}")
    return wheels[0]


def _builder() -> list[str]:
    beside = Path(sys.executable).parent / "uv"
    uv = str(beside) if beside.exists() else shutil.which("uv")
    return [uv, "build", "--quiet"] if uv else [sys.executable, "-m", "build"]
