"""Whether this worker's disk has room. While it has none the worker takes no tasks."""

from __future__ import annotations

import errno
import logging
import os
import time
from pathlib import Path

log = logging.getLogger(__name__)

LOW_BYTES = 16 << 20
"""With less than this free, hardly a task could run: it needs a runner, a log, files of its own."""
LOW_FILES = 64
MORE_BYTES = 1 << 20
"""So much more than when something did not fit is worth another try."""
AGAIN_SECONDS = 60.0
"""After so long it is tried again anyway: other tasks may need less."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Disk:
    """The disk of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = str(folder)
        self._wanted_bytes = LOW_BYTES
        self._again_at = 0.0
        self._had_room = True

    def note(self, error: OSError) -> bool:
        """Something could not be written; True if that was for want of room."""
        if error.errno not in _FULL:
            return False
        self._wanted_bytes = self._free()[0] + MORE_BYTES
        self._again_at = time.monotonic() + AGAIN_SECONDS
        return True

    def has_room(self) -> bool:
        """Whether tasks can be taken; it costs a system call."""
        free_bytes, free_files = self._free()
        if time.monotonic() >= self._again_at:
            self._wanted_bytes = LOW_BYTES
        has_room = free_bytes >= max(self._wanted_bytes, LOW_BYTES) and free_files >= LOW_FILES
        if has_room is not self._had_room:
            self._had_room = has_room
            if has_room:
                log.info("the disk has room again: tasks are taken")
            else:
                log.error("the disk of %s is full: no tasks are taken", self._folder)
        return has_room

    def _free(self) -> tuple[int, int]:
        """Bytes and files that can still be written."""
        try:
            found = os.statvfs(self._path)
        except OSError:
            return LOW_BYTES, LOW_FILES  # not this class's to judge
        # Some file systems do not count files.
        return found.f_bavail * found.f_frsize, found.f_favail if found.f_files else LOW_FILES
