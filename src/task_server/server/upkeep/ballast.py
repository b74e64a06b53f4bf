"""A file that holds room on a disk: deleted when the disk is full, so that what runs can end."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

_PIECE_BYTES = 2**20
_NOT_KNOWN = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)


class Ballast:
    """One file of at most `size_bytes`."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes

    @property
    def missing_bytes(self) -> int:
        """What it does not hold of its size."""
        try:
            return max(self.size_bytes - self._path.stat().st_size, 0)
        except FileNotFoundError:
            return self.size_bytes

    def make(self) -> None:
        """Fill it up. Raises OSError, and holds nothing then."""
        self._path.unlink(missing_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _fill(descriptor, self.size_bytes)
            os.fsync(descriptor)
        except OSError:
            self.drop()
            raise
        finally:
            os.close(descriptor)

    def drop(self) -> bool:
        """Give its room away; False when it held none."""
        with contextlib.suppress(FileNotFoundError):
            size = self._path.stat().st_size
            self._path.unlink()
            return size > 0
        return False


def _fill(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in _NOT_KNOWN:
            raise
        for _ in range(0, size, _PIECE_BYTES):
            os.write(descriptor, os.urandom(_PIECE_BYTES))  # what compresses would hold no room
