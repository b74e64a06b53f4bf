"""Environments on this machine: built once from a lock, named by its digest, kept on disk.

Their folders: see `environment_folders`; beside them `bytecode`.
"""

import asyncio
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from task_server.environments import uv as uv_text
from task_server.environments.lock import BadLock, Lock, empty_lock, parse_lock
from task_server.machine import program
from task_server.worker import eviction
from task_server.worker.building import BUILD_SECONDS, Builder, disk_trouble_as_failure
from task_server.worker.bytecode import Bytecode
from task_server.worker.environment_folders import (
    held,
    interpreter_in,
    remove,
    site_packages_in,
    stored_lock,
    sweep,
)
from task_server.worker.installing import (
    BuildFailed as BuildFailed,  # raised here, so found here
)
from task_server.worker.installing import FetchWheels, InstallRules
from task_server.worker.interpreters import DownloadFailed, Downloads, pythons
from task_server.worker.sandbox import fence
from task_server.worker.sandbox.fence import Fence
from task_server.worker.sandbox.relay import Relay

log = logging.getLogger(__name__)

LOW_PRIORITY: Final = 10
"""Niceness of builds that no task waits for."""

State = Literal["building", "ready", "failed", "removed"]
FetchLock = Callable[[str], Awaitable[str]]

_EVICTED: Final = ".evicted"


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment that can be used; without packages `site_packages` is None."""

    digest: str
    interpreter: Path
    site_packages: Path | None

    def note_use(self) -> None:
        """It is used now: it is not the next to be removed."""
        if self.site_packages is not None:
            eviction.note_use(self.interpreter.parents[1])


@dataclass(slots=True)
class _Build:
    task: asyncio.Task[Environment]
    waiting: int = 0
    is_urgent: bool = False
    process: int | None = None


class Environments:
    """The environments below `directory`. Call `open` first, `close` last.

    `uv` is looked for beside this Python first; `environ` (None: this process's) is filtered
    before uv sees it; `pythons` (None: those found) maps "3.11" to an interpreter; others are
    fetched into the folder `downloads` when they are needed (None: never); `now` gives Unix
    seconds, for manifests only. `rules` (None: everything, from the index) say what may be
    installed; `fetch_wheels` gets what users uploaded. With `has_fence` uv is kept from all that
    it does not need, where the kernel can do that; of the network it then has what `relay` leads
    to, where there is one.
    """

    def __init__(
        self,
        directory: Path,
        *,
        uv: str = "uv",
        environ: Mapping[str, str] | None = None,
        index: str | None = None,
        build_seconds: float = BUILD_SECONDS,
        pythons: Mapping[str, Path] | None = None,
        downloads: Path | None = None,
        now: Callable[[], float] = time.time,
        rules: InstallRules | None = None,
        fetch_wheels: FetchWheels | None = None,
        has_fence: bool = True,
        relay: Relay | None = None,
    ) -> None:
        self._directory = directory.absolute()
        uv = program(uv)
        visible = uv_text.process_environment(os.environ if environ is None else environ)
        self._builder = Builder(
            self._directory,
            uv=uv,
            environ=visible,
            index=index,
            build_seconds=build_seconds,
            now=now,
            rules=rules or InstallRules(),
            fetch_wheels=fetch_wheels,
            fence=Fence(relay) if has_fence and fence.is_possible() else None,
            on_process=self._note_process,
        )
        self._pythons = pythons
        self._downloads = None
        if downloads is not None:
            self._downloads = Downloads(downloads, uv=uv, environ=visible)
        self._offered: list[str] = []
        self._bytecode = Bytecode(self._directory / eviction.BYTECODE)
        self.on_built: Callable[[], None] = lambda: None
        """Called when there is one more on disk."""
        self._found: set[str] = set()
        self._ready: dict[str, Environment] = {}
        self._failed: set[str] = set()
        self._removed: set[str] = set()
        self._builds: dict[str, _Build] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Find the interpreters and the environments that are there; sweep what crashes left."""
        if self._pythons is None:
            self._pythons = await asyncio.to_thread(pythons)
        if self._downloads is not None:
            self._offered = await asyncio.to_thread(self._downloads.offered)
        for python, interpreter in self._pythons.items():
            digest = empty_lock(python).digest
            self._ready[digest] = Environment(digest, interpreter, None)
        with disk_trouble_as_failure():
            self._found = await asyncio.to_thread(sweep, self._directory)
            await asyncio.to_thread(self._bytecode.sweep)
            await asyncio.to_thread(self._remove_evicted)

    @property
    def pythons(self) -> list[str]:
        """Minor versions of the interpreters that `open` found, or that can be fetched."""
        found = {*(self._pythons or {}), *self._offered}
        return sorted(found, key=lambda python: int(python.partition(".")[2]))

    @property
    def first_interpreter(self) -> Path:
        """One of those that `open` found, else the one that runs this."""
        return next(iter((self._pythons or {}).values()), Path(sys.executable))

    async def close(self) -> None:
        """End all builds and wait until their processes are gone."""
        tasks = [*(build.task for build in self._builds.values()), *self._background]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._builder.close()

    async def ready(
        self, digest: str, fetch_lock: FetchLock, *, is_urgent: bool = True
    ) -> Environment:
        """The environment of `digest`, built now if it is not there yet.

        `fetch_lock(digest)` gives the text of its lock; what it raises is raised. All who ask at
        once share one build, which ends when nobody waits for it any more. While none of them is
        urgent it gives way to other work of the machine. Raises BuildFailed.
        """
        if digest in self._ready:
            return self._ready[digest]
        build = self._builds.get(digest) or self._start(digest, fetch_lock)
        build.waiting += 1
        if is_urgent and not build.is_urgent:
            build.is_urgent = True
            _set_priority(build.process, 0)
        try:
            return await asyncio.shield(build.task)
        finally:
            build.waiting -= 1
            if not build.waiting and not build.task.done():
                build.task.cancel()
                self._builds.pop(digest, None)

    async def make_room(
        self, limit_bytes: int, *, let_go: Callable[[str], bool]
    ) -> eviction.Evicted:
        """Remove environments, used longest ago first, until all take no more than the limit.

        `let_go(digest)` says of one that is to go whether it may; when it says so nothing may use
        it any more.
        """
        with disk_trouble_as_failure():
            usage = await asyncio.to_thread(eviction.usage_of, self._directory)
            before = usage.total
            gone = usage.evict(
                limit_bytes, lambda digest: digest not in self._builds and let_go(digest)
            )
            # At once, before anybody can ask for them: what is renamed is no environment any more.
            for digest in gone:
                self._forget(digest)
            await asyncio.to_thread(self._remove_evicted)
        return eviction.Evicted(gone, before - usage.total, usage.total)

    def _forget(self, digest: str) -> None:
        folder = self._directory / digest
        folder.rename(folder.with_suffix(f".{time.time_ns()}{_EVICTED}"))
        self._found.discard(digest)
        self._ready.pop(digest, None)
        self._removed.add(digest)

    def _remove_evicted(self) -> None:
        for folder in self._directory.glob(f"*{_EVICTED}"):
            with contextlib.suppress(OSError):
                remove(folder)
        eviction.remove_unlinked(self._directory / eviction.BYTECODE)

    async def compiled(self) -> None:
        """Wait until no byte code is being compiled in the background."""
        await asyncio.gather(*self._background)

    def states(self) -> dict[str, State]:
        """What to tell the server about each environment of this machine."""
        states: dict[str, State] = dict.fromkeys(self._removed, "removed")
        states.update(dict.fromkeys(self._failed, "failed"))
        states.update(dict.fromkeys((*self._found, *self._ready), "ready"))
        states.update(dict.fromkeys(self._builds, "building"))
        return states

    def _start(self, digest: str, fetch_lock: FetchLock) -> _Build:
        build = _Build(asyncio.create_task(self._get(digest, fetch_lock)))
        self._builds[digest] = build
        build.task.add_done_callback(functools.partial(self._note_end, digest))
        return build

    def _note_end(self, digest: str, task: asyncio.Task[Environment]) -> None:
        current = self._builds.get(digest)
        if current and current.task is task:
            del self._builds[digest]
        if task.cancelled():
            return
        self._found.discard(digest)
        self._removed.discard(digest)
        if task.exception():
            self._failed.add(digest)
        else:
            self._failed.discard(digest)
            self._ready[digest] = task.result()
            self.on_built()

    async def _get(self, digest: str, fetch_lock: FetchLock) -> Environment:
        with disk_trouble_as_failure():
            lock = await asyncio.to_thread(stored_lock, self._directory / digest)
            if lock:
                return await self._adopt(lock)
        lock = _checked(await fetch_lock(digest), digest)
        python = await self._python(lock.python)
        if lock.is_empty:
            return Environment(digest, python, None)
        with disk_trouble_as_failure():
            async with held(self._directory / f"{digest}.lock"):
                if not await asyncio.to_thread(stored_lock, self._directory / digest):
                    await self._builder.build(lock, python)
            return await self._adopt(lock)

    async def _python(self, minor: str) -> Path:
        known = self._pythons or {}
        if minor not in known and self._downloads is not None:
            try:
                return await self._downloads.get(minor)
            except DownloadFailed as error:
                raise BuildFailed(str(error), is_retryable=True, is_unfit=True) from None
        if minor not in known:
            message = f"this machine has no Python {minor}; it has {', '.join(known) or 'none'}"
            raise BuildFailed(message, is_retryable=True, is_unfit=True)
        return known[minor]

    async def _adopt(self, lock: Lock) -> Environment:
        folder = self._directory / lock.digest
        interpreter, site_packages = interpreter_in(folder), site_packages_in(folder, lock)
        missing = await asyncio.to_thread(self._bytecode.link, site_packages, lock)
        if missing:
            work = self._bytecode.compile(missing, site_packages, interpreter=interpreter)
            task = asyncio.create_task(work)
            self._background.add(task)
            task.add_done_callback(self._background.discard)
        return Environment(lock.digest, interpreter, site_packages)

    def _note_process(self, process: int | None) -> None:
        """What the present build waits for; it runs as urgently as the build is wanted."""
        for build in self._builds.values():
            if build.task is asyncio.current_task():
                build.process = process
                if not build.is_urgent:
                    _set_priority(process, LOW_PRIORITY)


def _set_priority(process: int | None, niceness: int) -> None:
    # A process of its own session leads its group. Only root may make it more urgent again.
    if process is not None:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PGRP, process, niceness)


def _checked(text: str, digest: str) -> Lock:
    try:
        lock = parse_lock(text)
    except BadLock as error:
        raise BuildFailed(f"the lock that came is broken: {error}", is_retryable=True) from None
    if lock.digest != digest:
        raise BuildFailed(f"the lock that came is {lock.digest}'s", is_retryable=True)
    return lock
