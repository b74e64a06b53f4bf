"""Folders of tests: the one of a run, who may enter them, and damage to environments."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

PREFIX = "ts-tests-"  # short: paths of sockets have 107 letters at most
YOUNG_SECONDS = 60.0
"""A folder may not be held yet by the run that made it."""
_DEPTH = 4
"""The folder, and those above it that pytest made: one more where tests run side by side."""


class RunFolder:
    """The temporary folder of one run of the tests; what killed runs left is removed."""

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):  # another user's
                _remove_if_left(left)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._hold = _hold(self.path)

    def remove(self) -> None:
        """Leave nothing behind."""
        _remove(self.path)
        if self._hold is not None:
            os.close(self._hold)


def _hold(folder: Path) -> int | None:
    """A descriptor; until it is closed, or the process has ended, nobody else gets one."""
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(number)
        return None
    return number


def _remove_if_left(folder: Path) -> None:
    if time.time() - folder.stat().st_mtime > YOUNG_SECONDS and (hold := _hold(folder)) is not None:
        _remove(folder)
        os.close(hold)


def _remove(folder: Path) -> None:
    let_damage(folder)
    shutil.rmtree(folder, ignore_errors=True)


def let_others_enter(folder: Path) -> None:
    """Let every user into `folder`, which pytest made for its own user alone."""
    for each in (folder, *folder.parents)[:_DEPTH]:
        status = each.stat()
        if status.st_uid == folder.stat().st_uid and status.st_mode & 0o011 != 0o011:
            each.chmod(status.st_mode | 0o011)


def let_damage(folder: Path) -> None:
    """Let the owner of an environment change what is in it."""
    for each in (folder, *folder.rglob("*")):
        if each.is_dir() and not each.is_symlink():
            each.chmod(0o755)
