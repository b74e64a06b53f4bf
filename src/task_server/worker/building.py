"""Building environments with uv: from a lock to a folder that appears whole.

DIRECTORY/workshop-PYTHON-N.partial/   where one is being built, or what a crash left
DIRECTORY/workshop-PYTHON-N.skeleton/  an environment of that Python without packages

uv asks a Python that it has not seen at a path about itself, which takes longer than to install a
small package. So all environments of a Python are built at the same few paths, and renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from task_server.environments import uv as uv_text
from task_server.environments.lock import Lock
from task_server.environments.uv_output import explain
from task_server.worker.environment_folders import (
    LOCK_FILE,
    first_free,
    interpreter_in,
    link_mode,
    remove,
    settle,
    site_packages_in,
)
from task_server.worker.exits import watch
from task_server.worker.installing import BuildFailed, FetchWheels, Installer, InstallRules, Place
from task_server.worker.sandbox.fence import Fence, start

log = logging.getLogger(__name__)

BUILD_SECONDS: Final = 15 * 60.0
_OUTPUT_BYTES: Final = 1 << 20
"""Of what uv writes, as much is looked at."""


class Builder:
    """Builds environments in `directory`.

    `on_process` is told which process the build waits for, and None when it is gone.
    """

    def __init__(
        self,
        directory: Path,
        *,
        uv: str,
        environ: Mapping[str, str],
        index: str | None,
        build_seconds: float,
        now: Callable[[], float],
        rules: InstallRules,
        fetch_wheels: FetchWheels | None,
        fence: Fence | None,
        on_process: Callable[[int | None], None],
    ) -> None:
        self._directory = directory
        self._uv = uv
        self._environ = environ
        self._build_seconds = build_seconds
        self._now = now
        self._rules = rules
        self._fence = fence
        self._on_process = on_process
        self._installer = Installer(
            uv, environ, index=index, rules=rules, fetch_wheels=fetch_wheels, run=self._run
        )
        self._skeletons: set[Path] = set()
        """Those of this process's own making."""

    async def build(self, lock: Lock, python: Path) -> None:
        """Build the environment of a lock; one that is there already is damaged.

        Raises BuildFailed.
        """
        began = self._now()
        if self._fence is not None:
            self._fence.let_use(python)
            self._fence.note([pin.name for pin in lock.pins])
        async with first_free(self._directory, _workshop(python)) as workshop:
            try:
                async with asyncio.timeout(self._build_seconds):
                    await self._fill(workshop, lock, python)
                await asyncio.to_thread(
                    settle, workshop, self._directory / lock.digest, lock, self._rules, began
                )
            except TimeoutError:
                message = f"the environment was not built within {self._build_seconds:g} s"
                raise BuildFailed(message, is_retryable=True) from None
            finally:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(remove, workshop)
        log.info("built environment %s in %.2f s", lock.digest, self._now() - began)

    async def close(self) -> None:
        """Call it when nothing is built any more."""
        if self._fence is not None:
            await self._fence.close()

    async def _fill(self, workshop: Path, lock: Lock, python: Path) -> None:
        await self._installer.check_version()
        await self._furnish(workshop, python)
        damaged = self._directory / lock.digest
        if damaged.exists():
            await self._clear_away(damaged, workshop, lock)
        (workshop / LOCK_FILE).write_text(lock.text)
        links = link_mode(self._environ, self._directory)
        packages = site_packages_in(workshop, lock)
        place = Place(workshop, interpreter_in(workshop), packages, links)
        await self._installer.install(lock, place)

    async def _furnish(self, workshop: Path, python: Path) -> None:
        """Make an environment without packages; uv does it once."""
        skeleton = workshop.with_suffix(".skeleton")
        if skeleton not in self._skeletons:
            await asyncio.to_thread(_make_anew, skeleton)
            command = uv_text.venv_command(self._uv, target=skeleton, interpreter=python)
            await self._run(command, self._environ, skeleton)
            self._skeletons.add(skeleton)
        await asyncio.to_thread(_copy, skeleton, workshop)

    async def _clear_away(self, damaged: Path, workshop: Path, lock: Lock) -> None:
        """Its files may be those of uv's cache too: what uv gets from there would be as damaged."""
        command = uv_text.forget_command(self._uv, [pin.name for pin in lock.pins])
        await self._run(command, self._environ, workshop)
        await asyncio.to_thread(remove, damaged)

    async def _run(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        own: Path | None = None,
        readable: Sequence[Path] = (),
    ) -> str:
        """Run uv; it fills the folder `own`, and may read what else is named."""
        with tempfile.TemporaryFile() as output:
            try:
                process = self._start_uv(command, environ, output, own, readable)
            except OSError as error:
                message = f"uv cannot be started: {error.strerror}"
                raise BuildFailed(message, is_retryable=True, is_unfit=True) from None
            has_ended = asyncio.Event()
            watch(process, has_ended.set)
            self._on_process(process.pid)
            try:
                await self._rules.watched(process.pid, has_ended.wait())
            finally:
                self._on_process(None)
                await _end(process, has_ended)
            output.seek(0)
            text = output.read(_OUTPUT_BYTES).decode(errors="replace")
        refused = self._fence.refused() if self._fence is not None else []
        if process.returncode and refused:
            raise _kept_from(refused)
        if process.returncode:
            raise _failed(process.returncode, text)
        return text

    def _start_uv(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        output: IO[bytes],
        own: Path | None,
        readable: Sequence[Path],
    ) -> subprocess.Popen[bytes]:
        if self._fence is None or own is None:
            return start(command, environ, folder=self._directory, output=output)
        return self._fence.start(
            command, environ, folder=self._directory, own=own, readable=readable, output=output
        )


def _workshop(python: Path) -> str:
    # What uv remembers of a path has to hold for the Python that is built with there.
    return f"workshop-{hashlib.sha256(str(python.resolve()).encode()).hexdigest()[:16]}"


def _make_anew(folder: Path) -> None:
    remove(folder)
    folder.mkdir()


def _copy(skeleton: Path, workshop: Path) -> None:
    remove(workshop)
    shutil.copytree(skeleton, workshop, symlinks=True)


@contextlib.contextmanager
def disk_trouble_as_failure() -> Iterator[None]:
    """Raise BuildFailed where the disk gives an OSError."""
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space is left on the disk of" if is_full else "environments cannot be written on"
        message = f"{what} this machine: {error.strerror}"
        raise BuildFailed(message, is_retryable=True, is_unfit=True) from error


def _failed(returncode: int, output: str) -> BuildFailed:
    if returncode < 0:
        return BuildFailed(f"uv was killed by signal {-returncode}", is_retryable=True)
    failure = explain(output)
    return BuildFailed(
        failure.message,
        is_retryable=failure.is_retryable,
        is_unfit=failure.is_unfit,
        is_away=failure.is_away,
    )


def _kept_from(places: Sequence[str]) -> BuildFailed:
    message = (
        f"uv was kept from {', '.join(places[:5])}, which is no place of a package index that this"
        " worker knows; if files are there, its --index-hosts can name it"
    )
    return BuildFailed(message, is_retryable=True, is_unfit=True)


async def _end(process: subprocess.Popen[bytes], has_ended: asyncio.Event) -> None:
    if not has_ended.is_set():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await has_ended.wait()
