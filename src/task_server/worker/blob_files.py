"""Blobs on the worker's disk, named by their digest: those used longest ago go for new ones."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection
from pathlib import Path

SHARE = 10
"""They take no more than this part of the disk, beside those in use."""
FRESH_SECONDS = 60.0
"""One that was asked for so lately is about to be used."""
LOOK_SECONDS = 10.0
"""Between two looks while all that is there is in use."""


class BlobFiles:
    """A folder of them. `in_use` gives those that held attempts need."""

    def __init__(self, folder: Path, in_use: Callable[[], Collection[Path]]) -> None:
        self.folder = folder
        self._in_use = in_use
        self._bytes = 0
        self._look_at = 0.0
        folder.mkdir(parents=True, exist_ok=True)
        # Runners, maybe other users, may read a blob whose digest they know, and list none.
        folder.chmod(0o711)
        for entry in os.scandir(folder):
            if entry.name.endswith(".partial"):  # of a worker that was killed
                Path(entry.path).unlink(missing_ok=True)
            else:
                self._bytes += entry.stat().st_size

    def path(self, name: str) -> Path:
        """Where a blob has its place."""
        return self.folder / name.removeprefix("sha256:")

    def find(self, name: str) -> Path | None:
        """The file of a blob that is there; it counts as used now."""
        path = self.path(name)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def keep(self, partial: Path, name: str) -> Path:
        """Give what was fetched its place, and make room for it."""
        path = self.path(name)
        partial.chmod(0o644)
        partial.rename(path)
        self._bytes += path.stat().st_size
        most = shutil.disk_usage(self.folder).total // SHARE
        if self._bytes > most and time.monotonic() >= self._look_at:
            self.make_room(most)
        return path

    def make_room(self, most_bytes: int) -> None:
        """Remove those used longest ago until they take no more than that."""
        in_use, fresh = self._in_use(), time.time() - FRESH_SECONDS
        found = []
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):
                told = entry.stat()
                found.append((told.st_mtime, told.st_size, Path(entry.path)))
        self._bytes = sum(size for _, size, _ in found)
        for used_at, size, path in sorted(found):
            if self._bytes <= most_bytes or used_at > fresh:
                break
            if path not in in_use and path.suffix != ".partial":
                path.unlink(missing_ok=True)
                self._bytes -= size
        if self._bytes > most_bytes:
            self._look_at = time.monotonic() + LOOK_SECONDS
