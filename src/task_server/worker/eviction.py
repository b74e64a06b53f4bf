"""Which environments have to go: what they take on disk, and which was used longest ago.

Files that environments share by hard links count once, and go with the last that has them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

Inode = tuple[int, int]
Sizes = Mapping[Inode, int]
"""Bytes on disk of each file."""

BYTECODE = "bytecode"
USED = "used"
"""A file whose time says when the environment was last used."""


def sizes_in(directory: Path) -> dict[str, dict[Inode, int]]:
    """The files of each environment below `directory`, by digest. Waits for the disk."""
    return {
        folder.parent.name: dict(_files(folder.parent))
        for folder in directory.glob(f"{'?' * 64}/manifest.json")
    }


def _files(folder: Path) -> Iterator[tuple[Inode, int]]:
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(f"{path}/{name}")
            except OSError:
                continue  # it went meanwhile
            yield (found.st_dev, found.st_ino), found.st_blocks * 512


class Evicted(NamedTuple):
    """What an eviction came to."""

    digests: list[str]
    freed_bytes: int
    left_bytes: int


class Usage:
    """What environments take on disk, and when they were last used, as of one look."""

    def __init__(
        self, environments: Mapping[str, Sizes], last_used_at: Mapping[str, float]
    ) -> None:
        self._environments = environments
        self._users = Counter(inode for sizes in environments.values() for inode in sizes)
        together: dict[Inode, int] = {}
        for sizes in environments.values():
            together.update(sizes)
        self.total = sum(together.values())
        """Bytes that all of them take together."""
        self._oldest_first = sorted(environments, key=lambda digest: last_used_at[digest])

    def evict(self, limit_bytes: int, let_go: Callable[[str], bool]) -> list[str]:
        """Which have to go so that the rest takes no more than the limit, used longest ago first.

        `let_go` is asked of each in turn whether it may go.
        """
        gone = []
        for digest in self._oldest_first:
            if self.total <= limit_bytes:
                break
            if let_go(digest):
                gone.append(digest)
                self._forget(digest)
        return gone

    def _forget(self, digest: str) -> None:
        for inode, size in self._environments[digest].items():
            self._users[inode] -= 1
            if not self._users[inode]:
                self.total -= size


def usage_of(directory: Path) -> Usage:
    """What the environments below `directory` take. Waits for the disk."""
    environments = sizes_in(directory)
    return Usage(environments, {digest: last_use(directory / digest) for digest in environments})


def note_use(folder: Path) -> None:
    """The environment in `folder` is used now, if it is one."""
    with contextlib.suppress(OSError):
        os.utime(folder / USED)


def last_use(folder: Path) -> float:
    """When it was last used; before that, when it was built. Unix seconds."""
    for name in (USED, "manifest.json"):
        try:
            return (folder / name).stat().st_mtime
        except OSError:
            continue
    return 0.0


def remove_unlinked(directory: Path) -> None:
    """Remove the byte code that no environment has any more. Waits for the disk."""
    for folder in directory.glob("*"):
        if ".partial-" in folder.name or not folder.is_dir():
            continue
        if not any(_is_linked(path) for path in folder.rglob("*.pyc")):
            shutil.rmtree(folder, ignore_errors=True)


def _is_linked(path: Path) -> bool:
    try:
        return path.stat().st_nlink > 1
    except OSError:
        return False
