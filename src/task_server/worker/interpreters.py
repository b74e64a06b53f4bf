"""The Pythons of this machine, and those that uv may fetch for it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from task_server.environments.uv_output import readable

_MINORS: Final = range(9, 16)
_PROBE: Final = "import sys; print(sys.implementation.name, '%d.%d' % sys.version_info[:2])"
LIST_SECONDS: Final = 30.0
DOWNLOAD_SECONDS: Final = 900.0


@functools.cache
def pythons() -> dict[str, Path]:
    """The interpreters of this machine that really start, by minor version ("3.11").

    Those of the system come first: other users can reach them, unlike one in somebody's home. Last
    come those that uv has installed.
    """
    managed: list[tuple[str, Path]] | None = None
    found = {}
    for minor in _MINORS:
        python = f"3.{minor}"
        candidates = _candidates(f"python{python}")
        interpreter = next((each for each in candidates if _starts(each, python)), None)
        if interpreter is None:
            managed = _managed() if managed is None else managed
            of_uv = (path for version, path in managed if version == python)
            interpreter = next((each for each in of_uv if _starts(each, python)), None)
        if interpreter is not None:
            found[python] = interpreter
    return found


def _candidates(name: str) -> Iterator[Path]:
    yield Path("/usr/bin") / name
    if name == f"python3.{sys.version_info.minor}":
        yield Path(getattr(sys, "_base_executable", sys.executable))
    for folder in map(Path, os.environ.get("PATH", os.defpath).split(os.pathsep)):
        if folder.name == "shims" and _is_folder(folder.parent / "versions"):
            yield from _of_pyenv(folder.parent, name)
        else:
            yield folder / name


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):  # the PATH may lead into somebody else's home
        return path.is_dir()
    return False


def _of_pyenv(root: Path, name: str) -> Iterator[Path]:
    """What pyenv's script of that name would start: it would take a shell to find that out."""
    chosen = os.environ.get("PYENV_VERSION", "").split(":")
    with contextlib.suppress(OSError):
        chosen = chosen if any(chosen) else (root / "version").read_text().split()
    for version in chosen:
        # Without a version that has it the script fails; one that is installed is not yet chosen.
        if version.startswith(f"{name.removeprefix('python')}."):
            yield root / "versions" / version / "bin" / name


def _starts(interpreter: Path, python: str) -> bool:
    if not interpreter.is_absolute() or not os.access(interpreter, os.X_OK):
        return False
    command = [str(interpreter), "-I", "-S", "-c", _PROBE]
    try:
        probe = subprocess.run(command, capture_output=True, timeout=10, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return False
    return probe.stdout.split() == ["cpython", python]


def _managed() -> list[tuple[str, Path]]:
    """Interpreters that uv has installed: version and path."""
    return [
        (python, Path(each["path"]))
        for python, each in _listed("--only-installed", "--managed-python")
        if each.get("path")
    ]


def _listed(
    *options: str, uv: str = "", environ: Mapping[str, str] | None = None
) -> list[tuple[str, dict[str, str]]]:
    """What `uv python list` says of CPython, by minor version; newest first."""
    beside = Path(sys.executable).parent / "uv"
    program = uv or (str(beside) if beside.exists() else "uv")
    command = [program, "python", "list", "--no-config", *options, "--output-format", "json"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=LIST_SECONDS, check=True, env=environ
        )
        rows = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []  # without uv there are those of the system
    return [
        (f"{each['version_parts']['major']}.{each['version_parts']['minor']}", each)
        for each in rows
        if each["implementation"] == "cpython" and each["variant"] == "default"
    ]


class DownloadFailed(Exception):
    """A Python that could not be fetched; the message says what uv said."""


class Downloads:
    """Pythons that uv fetches into `directory` when the first environment needs them."""

    def __init__(self, directory: Path, *, uv: str, environ: Mapping[str, str]) -> None:
        self._directory = directory
        self._uv = uv
        self._environ = environ
        self._one_at_a_time = asyncio.Lock()

    def offered(self) -> list[str]:
        """Minor versions that can be had, but for what is no release yet. Waits for a process."""
        rows = _listed("--only-downloads", uv=self._uv, environ=self._environ)
        found = {
            python
            for python, each in rows
            if int(python.partition(".")[2]) in _MINORS
            and each["version"].replace(".", "").isdecimal()
        }
        return sorted(found, key=lambda python: int(python.partition(".")[2]))

    async def get(self, python: str) -> Path:
        """The interpreter, fetched if it is not there yet. Raises DownloadFailed."""
        async with self._one_at_a_time:
            found = await asyncio.to_thread(self._find, python)
            if found is None:
                await self._install(python)
                found = await asyncio.to_thread(self._find, python)
        if found is None:
            raise DownloadFailed(f"the Python {python} that uv fetched does not start here")
        return found

    def _find(self, python: str) -> Path | None:
        paths = sorted(self._directory.glob(f"cpython-{python}.*/bin/python{python}"))
        return next((path for path in reversed(paths) if _starts(path, python)), None)

    async def _install(self, python: str) -> None:
        options = ["--no-config", "--no-progress", "--color", "never", "--no-bin"]
        command = [self._uv, "python", "install", *options]
        command += ["--install-dir", str(self._directory), "--", f"cpython@{python}"]
        status, output = await _run(command, self._environ)
        if status:
            raise DownloadFailed(f"Python {python} could not be fetched: {readable(output)}")


async def _run(command: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise DownloadFailed(f"uv cannot be started: {error.strerror}") from None
    try:
        async with asyncio.timeout(DOWNLOAD_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise DownloadFailed(f"not fetched within {DOWNLOAD_SECONDS:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")
