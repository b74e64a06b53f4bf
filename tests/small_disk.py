"""A small disk of a test's own, which it can fill."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MIB = 2**20
_DETACH = 2  # MNT_DETACH
_PIECE = b"\0" * MIB


class SmallDisk:
    """A file system in memory, mounted at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._filler = folder / "filler"

    @property
    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leaving: int = 0) -> None:
        """Write until no more is free than this."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while (over := self.free_bytes - leaving) > 0:
                if not file.write(_PIECE[: min(over, MIB)]):
                    return

    def clear(self) -> None:
        """Delete what filled it."""
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[SmallDisk]:
    """Mount one; skips the test where that is not allowed."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={mebibytes}m,mode=755".encode()
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, options):
        pytest.skip(f"no small disk can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield SmallDisk(folder)
    finally:
        libc.umount2(bytes(folder), _DETACH)
