"""One environment's folder on disk: whole or not there, read-only, held by one builder at a time.

DIRECTORY/DIGEST/        an environment; it appears whole, by renaming
DIRECTORY/DIGEST.lock    held by the process that builds it
DIRECTORY/NAME.partial/  where one is being built, or what a crash left; NAME.lock is held
"""

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import platform
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

from task_server.environments.lock import Lock, parse_lock
from task_server.worker import eviction
from task_server.worker.installing import InstallRules
from task_server.worker.sandbox.fence import cache_folder

LOCK_FILE: Final = "requirements.lock"
_MANIFEST: Final = "manifest.json"
_LOOK_AGAIN_SECONDS: Final = 0.05
SEALED: Final = 0o555
"""The mode of a folder that nobody may change."""
_WRITABLE: Final = 0o222


def stored_lock(folder: Path) -> Lock | None:
    """The lock of the environment in `folder` if that is whole.

    A power loss may have emptied files after their names were on disk, and a function that nothing
    held may have written them; looking at what is there finds that, and costs less than an fsync
    of thousands of files.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_bytes())
        lock = parse_lock((folder / LOCK_FILE).read_text())
    except (OSError, ValueError):
        return None
    content = _content(folder)
    is_whole = lock.digest == folder.name and manifest.get("content") == content
    return lock if is_whole and interpreter_in(folder).exists() else None


def settle(partial: Path, target: Path, lock: Lock, rules: InstallRules, built_at: float) -> None:
    """Make a built folder an environment. Raises BuildFailed if it is larger than allowed."""
    content = _content(partial, seals=True)
    rules.check_size(*content[:2])
    manifest = {
        "digest": lock.digest,
        "python": lock.python,
        "versions": lock.versions(_this_machine()),
        "built_at": built_at,
        "content": content,
    }
    (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
    (partial / eviction.USED).touch()
    partial.chmod(SEALED)
    # Rename last: a crash during the build leaves only a .partial folder.
    partial.rename(target)


def _content(folder: Path, *, seals: bool = False) -> list[int]:
    """How many files there are, their bytes, and when one was written last.

    Byte code may come and go, and what is noted beside the packages does not count. With `seals`
    nobody may write any of it from now on.
    """
    files = size_bytes = written_at = 0
    folders = [str(folder)]
    while folders:
        path = folders.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders += [entry.path] if entry.name != "__pycache__" else []
                elif path != str(folder) or entry.name not in (_MANIFEST, eviction.USED):
                    found = entry.stat(follow_symlinks=False)
                    files += 1
                    size_bytes += found.st_size
                    written_at = max(written_at, found.st_mtime_ns)
                    # Most are uv's cache's too, and have been sealed before.
                    if seals and found.st_mode & _WRITABLE and not entry.is_symlink():
                        os.chmod(entry.path, found.st_mode & 0o777 & ~_WRITABLE)  # noqa: PTH101
        if seals and path != str(folder):
            os.chmod(path, SEALED)  # noqa: PTH101 as text: there are thousands
    return [files, size_bytes, written_at]


def interpreter_in(folder: Path) -> Path:
    """Its Python."""
    return folder / "bin" / "python"


def site_packages_in(folder: Path, lock: Lock) -> Path:
    """Its packages."""
    return folder / "lib" / f"python{lock.python}" / "site-packages"


def _this_machine() -> dict[str, str]:
    return {
        "os_name": os.name,
        "sys_platform": sys.platform,
        "platform_system": platform.system(),
        "platform_machine": platform.machine(),
    }


def link_mode(environ: Mapping[str, str], directory: Path) -> str:
    """How uv is to bring files from its cache: linked where both lie on one file system."""
    if "UV_LINK_MODE" in environ:
        return environ["UV_LINK_MODE"]
    cache = cache_folder(environ)
    there = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return "hardlink" if there.stat().st_dev == directory.stat().st_dev else "copy"


def sweep(directory: Path) -> set[str]:
    """Remove unfinished builds that nobody holds; the digests of the environments there."""
    directory.mkdir(parents=True, exist_ok=True)
    for partial in directory.glob("*.partial"):
        with partial.with_suffix(".lock").open("wb") as lock_file:
            if _try_to_hold(lock_file.fileno()):
                remove(partial)
    return {manifest.parent.name for manifest in directory.glob(f"{'?' * 64}/{_MANIFEST}")}


def remove(*folders: Path) -> None:
    """Remove folders that may not be there, or sealed."""
    for folder in folders:
        if os.geteuid() != 0:
            for path, _, _ in os.walk(folder):
                os.chmod(path, 0o700)  # noqa: PTH101 as text: there are thousands
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def first_free(directory: Path, name: str) -> AsyncIterator[Path]:
    """A folder to build in, the first NAME-N.partial that nobody holds; it may not be there."""
    for number in itertools.count():
        partial = directory / f"{name}-{number}.partial"
        with partial.with_suffix(".lock").open("wb") as lock_file:
            if _try_to_hold(lock_file.fileno()):
                yield partial
                return


@contextlib.asynccontextmanager
async def held(path: Path) -> AsyncIterator[None]:
    """Hold the lock file `path` against other builds of any process; waits for it."""
    with path.open("wb") as lock_file:
        while not _try_to_hold(lock_file.fileno()):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
        yield


def _try_to_hold(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
