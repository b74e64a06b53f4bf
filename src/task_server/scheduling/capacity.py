"""What slots are worth: when work is done on more of them, and what fits until a moment."""

from __future__ import annotations

import math

from msgspec import Struct

from task_server.protocol.tasks import Quantiles, SlotsNeeded

MAXIMUM_SLOTS = 1_000_000
"""More is not a number of slots, but a sign that it cannot be done."""


class Work(Struct, frozen=True):
    """Core-seconds to do, and how long the longest call of it takes."""

    core_seconds: Quantiles
    longest: float = 0.0

    def plus(self, other: Work) -> Work:
        """Both; the quantiles of a sum lie closer together than these."""
        one, two = self.core_seconds, other.core_seconds
        return Work(
            Quantiles(one.p10 + two.p10, one.p50 + two.p50, one.p90 + two.p90),
            max(self.longest, other.longest),
        )

    def eta(self, slots: int) -> Quantiles | None:
        """Seconds until it is done on that many slots; None without any."""
        if not slots:
            return None
        total = self.core_seconds
        return Quantiles(
            max(total.p10 / slots, min(self.longest, total.p10)),
            max(total.p50 / slots, min(self.longest, total.p50)),
            max(total.p90 / slots, min(self.longest, total.p90)),
        )

    def slots_for(self, seconds: float) -> SlotsNeeded:
        """The least numbers of slots on which it is done within `seconds`."""
        return SlotsNeeded(
            self._slots(self.core_seconds.p50, seconds), self._slots(self.core_seconds.p90, seconds)
        )

    def _slots(self, total: float, seconds: float) -> int | None:
        if total <= 0.0:
            return 0
        if seconds <= 0.0 or min(self.longest, total) > seconds:
            return None
        slots = math.ceil(total / seconds)
        return slots if slots <= MAXIMUM_SLOTS else None


def free_until(work: Work, *, slots: int, seconds: float) -> Quantiles:
    """Core-seconds that so many slots have besides the work; below 0: that they are short of."""
    whole = slots * seconds
    total = work.core_seconds
    return Quantiles(whole - total.p90, whole - total.p50, whole - total.p10)


def on_more_slots(eta: Quantiles, slots: int, wanted: int, *, longest: float) -> Quantiles:
    """What an ETA on `slots` becomes on `wanted`: the work is shared, the longest call is not."""
    share = slots / wanted
    return Quantiles(
        max(eta.p10 * share, min(longest, eta.p10)),
        max(eta.p50 * share, min(longest, eta.p50)),
        max(eta.p90 * share, min(longest, eta.p90)),
    )
