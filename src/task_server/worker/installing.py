"""What may be installed here, from where, and how much of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, TypeVar

from task_server.environments import uv as uv_text
from task_server.environments.lock import PRIVATE, UPLOADED, Lock, Pin
from task_server.environments.wheels import named
from task_server.policy import EVERYTHING, Policy, PrivateIndex

T = TypeVar("T")
FetchWheels = Callable[[Sequence[Pin]], Awaitable[Mapping[str, Path]]]

GIB: Final = 1024**3
_LOOK_SECONDS: Final = 0.2
_SLACK_BYTES: Final = 64 * 1024 * 1024
"""What uv writes beside the packages."""


class BuildFailed(Exception):
    """An environment that could not be built; the first line of `message` names the cause.

    `is_retryable`: it may work later. `is_unfit`: this machine is at fault, another may do.
    `is_away`: the index could not be reached.
    """

    def __init__(
        self,
        message: str,
        *,
        is_retryable: bool,
        is_unfit: bool = False,
        is_away: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.is_retryable = is_retryable
        self.is_unfit = is_unfit
        self.is_away = is_away


class TooLarge(BuildFailed):
    """An environment that this worker's settings have no room for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, is_retryable=False)


@dataclass(frozen=True, slots=True)
class InstallRules:
    """What this worker's settings say."""

    policy: Policy = EVERYTHING
    private: PrivateIndex | None = None
    most_bytes: int = 4 * GIB
    most_files: int = 200_000

    def check_policy(self, names: Sequence[str]) -> None:
        """Raise BuildFailed for packages that may not be installed here."""
        refused = self.policy.refused(names)
        if refused:
            message = f"this worker does not allow {', '.join(refused)}"
            raise BuildFailed(message, is_retryable=True, is_unfit=True)

    def check_size(self, files: int, size_bytes: int) -> None:
        """Raise BuildFailed for an environment that has become too large."""
        if files > self.most_files:
            message = f"the environment has {files} files"
            option = f"--environment-files allows {self.most_files}"
        elif size_bytes > self.most_bytes:
            message = f"the environment has {size_bytes} bytes, unpacked"
            option = f"--environment-bytes allows {self.most_bytes}"
        else:
            return
        raise TooLarge(f"{message}; the worker's {option}")

    async def watched(self, pid: int, work: Awaitable[T]) -> T:
        """What `work` gives, unless the process of that id writes far more than is allowed first.

        Raises BuildFailed then; where the system does not tell what is written, only
        `check_size` holds.
        """
        working = asyncio.ensure_future(work)
        try:
            while True:
                done, _ = await asyncio.wait((working,), timeout=_LOOK_SECONDS)
                if done:
                    return working.result()
                # Where files are copied out of uv's cache they are written twice.
                if _written_bytes(pid) > 2 * self.most_bytes + _SLACK_BYTES:
                    message = "what is unpacked for the environment is far too large"
                    option = f"--environment-bytes allows {self.most_bytes}"
                    raise TooLarge(f"{message}; the worker's {option}")
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait((working,))


class Run(Protocol):
    """Runs uv, which fills a folder and may read others; gives what it wrote."""

    def __call__(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        own: Path | None = None,
        readable: Sequence[Path] = (),
    ) -> Awaitable[str]:
        """Raises BuildFailed."""
        ...


def _written_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line[7:]) for line in lines if line.startswith("wchar: ")), 0)


@dataclass(frozen=True, slots=True)
class Place:
    """What is to be filled: the environment's folder and its interpreter."""

    folder: Path
    interpreter: Path
    site_packages: Path
    link_mode: str

    def content(self) -> set[str]:
        """What is installed so far."""
        return set(os.listdir(self.site_packages))  # noqa: PTH208 names are all


class Installer:
    """Fills environments from their locks: each package from the one place where it belongs."""

    def __init__(
        self,
        uv: str,
        environ: Mapping[str, str],
        *,
        index: str | None,
        rules: InstallRules,
        fetch_wheels: FetchWheels | None,
        run: Run,
    ) -> None:
        self._uv = uv
        self._environ = environ
        self._index = index
        self._rules = rules
        self._fetch_wheels = fetch_wheels
        self._run = run
        self._is_checked = False

    async def install(self, lock: Lock, place: Place) -> None:
        """Install all that the lock pins. Raises BuildFailed."""
        self._rules.check_policy([pin.name for pin in lock.pins])
        await self._install_public(lock.of(""), place)
        if lock.of(PRIVATE).pins:
            await self._install_private(lock.of(PRIVATE), place)
        if lock.of(UPLOADED).pins:
            await self._install_uploaded(lock.of(UPLOADED), place)

    async def check_version(self) -> None:
        """Raise BuildFailed for a uv that is too old."""
        if not self._is_checked:
            output = await self._run(uv_text.version_command(self._uv), self._environ)
            if wrong := uv_text.too_old(output):
                raise BuildFailed(wrong, is_retryable=True, is_unfit=True)
            self._is_checked = True

    async def _install_public(self, lock: Lock, place: Place) -> None:
        private = self._rules.private
        for pin in lock.pins:
            if private is not None and private.has(pin.name):
                message = f"{pin.name} comes from this worker's private index, not from the public"
                raise BuildFailed(message, is_retryable=True, is_unfit=True)
        await self._install(lock, place, self._environ, index=self._index)

    async def _install_private(self, lock: Lock, place: Place) -> None:
        private = self._rules.private
        for pin in lock.pins:
            if private is None or not private.has(pin.name):
                message = f"{pin.name} needs a private index that this worker does not have"
                raise BuildFailed(message, is_retryable=True, is_unfit=True)
        if private is not None:
            environ = {**uv_text.without_places(self._environ), **private.environ}
            await self._install(lock, place, environ, index=private.argument)

    async def _install_uploaded(self, lock: Lock, place: Place) -> None:
        fetched = await self._fetch_wheels(lock.pins) if self._fetch_wheels else {}
        there = {named(filename)[0] for filename in fetched}
        for pin in lock.pins:
            if pin.name not in there:
                message = f"{pin.name} {pin.version} was uploaded to the server, and removed since"
                raise BuildFailed(message, is_retryable=False)
        folder = place.folder / "wheels"
        await asyncio.to_thread(_lay_out, fetched, folder)
        environ = uv_text.without_places(self._environ)
        await self._install(lock, place, environ, wheels=folder, readable=list(fetched.values()))
        await asyncio.to_thread(_remove, folder)

    async def _install(
        self,
        lock: Lock,
        place: Place,
        environ: Mapping[str, str],
        *,
        index: str | None = None,
        wheels: Path | None = None,
        readable: Sequence[Path] = (),
    ) -> None:
        lock_file = place.folder / "part.lock"
        lock_file.write_text(lock.text)

        def command(*, offline: bool) -> list[str]:
            return uv_text.install_command(
                self._uv,
                interpreter=place.interpreter,
                lock_file=lock_file,
                link_mode=place.link_mode,
                index=index,
                wheels=wheels,
                offline=offline,
            )

        before = place.content()
        try:
            # From the cache alone it takes half of the time: no certificates, no connection.
            await self._run(command(offline=True), environ, place.folder, readable)
        except TooLarge:
            raise
        except BuildFailed:
            if place.content() != before:
                raise  # uv would take what is there by half for installed
            await self._run(command(offline=False), environ, place.folder, readable)
        lock_file.unlink()


def _lay_out(files: Mapping[str, Path], folder: Path) -> None:
    folder.mkdir()
    for name, path in files.items():
        (folder / name).symlink_to(path.absolute())


def _remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
