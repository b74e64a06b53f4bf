"""What a function prints: one file per runner, cut to a head and a tail for each call."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

TRIM_FACTOR = 4
"""A call's log is cut on disk once it has this many times what is kept of it."""


class RunnerLog:
    """The file behind a runner's stdout and stderr, without a name and open for append.

    The runner tells at which offsets each call's bytes begin and end. While a call prints more
    than is kept, `trim` takes head and tail into memory and empties the file.
    """

    def __init__(self, directory: Path) -> None:
        number, name = tempfile.mkstemp(prefix=".log-", dir=directory)
        self._fd = number
        # The runner gets an end of its own: it can add, but not read what other calls printed.
        self.write_fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        os.unlink(name)  # noqa: PTH108 a function that empties its folder must not find it
        self._head = b""
        self._tail = b""
        self._trimmed = 0

    def close_write(self) -> None:
        """Close the runner's end once it has it."""
        os.close(self.write_fd)
        self.write_fd = -1

    def close(self) -> None:
        """Let the file go."""
        if self.write_fd >= 0:
            self.close_write()
        os.close(self._fd)

    def size(self) -> int:
        """Its length on disk."""
        return os.fstat(self._fd).st_size

    @property
    def is_trimmed(self) -> bool:
        """Whether part of the running call's log is in memory."""
        return self._trimmed > 0

    def restart(self) -> None:
        """Empty the file; only while no call is with the runner."""
        os.ftruncate(self._fd, 0)

    def trim(self, start: int, limit: int) -> bool:
        """Cut the running call's log, which began at `start`, if it grew too long; whether it did.

        Afterwards the file is empty and the call goes on at 0.
        """
        size = self.size()
        start = 0 if self._trimmed else start
        if size - start <= TRIM_FACTOR * limit:
            return False
        half = limit // 2
        if not self._trimmed:
            self._head = self._read(start, start + half)
            start += len(self._head)
        for _ in range(3):  # until nothing came meanwhile; of a flood some is lost uncounted
            self._tail = self._read(max(start, size - half), size)
            grown = self.size()
            if grown == size:
                break
            size = grown
        os.ftruncate(self._fd, 0)
        self._trimmed += size - start
        return True

    def take(self, start: int, end: int | None, limit: int) -> bytes:
        """The log of the call that just ended; `end` None: all there is."""
        end = self.size() if end is None else min(end, self.size())
        if self._trimmed:
            return self._take_trimmed(end, limit)
        if end - start <= limit:
            return self._read(start, end) if end > start else b""
        half = limit // 2
        head = self._read(start, start + half)
        return _joined(head, self._read(end - half, end), end - start - 2 * half)

    def _take_trimmed(self, end: int, limit: int) -> bytes:
        half = limit // 2
        tail = (self._tail + self._read(max(0, end - half), end))[-half:]
        body = _joined(self._head, tail, self._trimmed + end - len(tail))
        self._head = self._tail = b""
        self._trimmed = 0
        return body

    def _read(self, start: int, end: int) -> bytes:
        return os.pread(self._fd, max(0, end - start), max(0, start))


def _joined(head: bytes, tail: bytes, cut: int) -> bytes:
    return b"%s\n[... at least %d bytes cut ...]\n%s" % (head, cut, tail)
