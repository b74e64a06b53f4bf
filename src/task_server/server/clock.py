"""The one clock that decides about leases: it never jumps while the server runs."""

from __future__ import annotations

import time

JUMP_SECONDS = 5.0
"""Wall and monotonic time further apart than this: somebody set the clock."""


class Clock:
    """Unix seconds that go on at the pace of the monotonic clock."""

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()

    def __call__(self) -> float:
        """Now."""
        return time.monotonic() + self._offset

    def follow(self) -> bool:
        """Take the wall's time again if it was set; True when it was."""
        offset = time.time() - time.monotonic()
        if abs(offset - self._offset) <= JUMP_SECONDS:
            return False
        self._offset = offset
        return True
