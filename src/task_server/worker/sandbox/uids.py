"""A user of its own for each runner, where the agent is root (and only to have these)."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

LOCKS = Path("/run/lock/task-server")


class NoUid(OSError):
    """All uids of the range are in use."""


class Uids:
    """Uids to give out. Other workers of this machine, told the same range, use others."""

    def __init__(self, first: int, last: int) -> None:
        self._range = range(first, last + 1)
        self._next = os.getpid() % len(self._range)
        self._held: dict[int, int] = {}

    def take(self) -> int:
        """A uid that nobody else has, and nobody had just now. Raises NoUid.

        What ran under it may take a while to be gone from the kernel's count of its processes.
        """
        LOCKS.mkdir(parents=True, exist_ok=True, mode=0o700)
        for _ in self._range:
            uid = self._range[self._next]
            self._next = (self._next + 1) % len(self._range)
            if uid not in self._held and (lock := _hold(LOCKS / str(uid))) is not None:
                self._held[uid] = lock
                return uid
        raise NoUid(f"uids {self._range.start} to {self._range[-1]} are all in use")

    def give_back(self, uid: int) -> None:
        """Once nothing runs under it any more and none of its files is left."""
        os.close(self._held.pop(uid))


def _hold(path: Path) -> int | None:
    import fcntl

    number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


def is_root() -> bool:
    """Whether this process may become other users."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def closed_folder(path: Path) -> Path | None:
    """The first folder on the way to `path` that other users cannot enter; None if there is none.

    Links are followed, as the kernel does.
    """
    for each in dict.fromkeys((path, path.resolve())):
        for folder in reversed((each, *each.parents)):
            with contextlib.suppress(OSError):
                if folder.is_dir() and not folder.stat().st_mode & 0o001:
                    return folder
    return None
