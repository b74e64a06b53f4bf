"""How much of everything a round does."""

from __future__ import annotations

from msgspec import Struct

KIB = 1024
MIB = 1024 * KIB
ECHOED_BYTES = 100 * MIB
"""Of all echoes of one length together, about."""


class Size(Struct, frozen=True):
    """Counts of one round, and seconds of what is watched for a while."""

    batches: int
    calls: int
    requests: int
    mapped: int
    most_echoes: int
    watched_seconds: float
    busy_seconds: float

    def echoes(self, length: int) -> int:
        """How many of so many bytes."""
        return max(min(ECHOED_BYTES // length, self.most_echoes), 3)


QUICK = Size(
    batches=3,
    calls=100,
    requests=500,
    mapped=10_000,
    most_echoes=30,
    watched_seconds=20.0,
    busy_seconds=8.0,
)
FULL = Size(
    batches=7,
    calls=500,
    requests=3000,
    mapped=10_000,
    most_echoes=200,
    watched_seconds=40.0,
    busy_seconds=20.0,
)
