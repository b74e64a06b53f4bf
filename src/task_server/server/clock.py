"""The one clock that decides about leases: it jumps only when it says so."""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_SECONDS = 5.0
"""Wall and monotonic time further apart than this: somebody set the clock."""
AGREED_SECONDS = 0.05
"""Two clocks no further apart than this are the same: asking takes time."""


class Clock:
    """Unix seconds that go on at the pace of the monotonic clock."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._offset = wall() - monotonic()
        self._is_led = False

    def __call__(self) -> float:
        """Now."""
        return self._monotonic() + self._offset

    def agree(self, now: float) -> None:
        """From now on go by another clock, the database's, which says `now`."""
        self._is_led = True
        offset = now - self._monotonic()
        if abs(offset - self._offset) > AGREED_SECONDS:
            self._offset = offset

    def follow(self) -> float:
        """Take the wall's time again if it was set; by how many seconds, 0 when it was not."""
        if self._is_led:
            return 0.0
        offset = self._wall() - self._monotonic()
        jump = offset - self._offset
        if abs(jump) <= JUMP_SECONDS:
            return 0.0
        self._offset = offset
        return jump
