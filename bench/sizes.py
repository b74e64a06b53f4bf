"""How much of everything a round does."""

from __future__ import annotations

from msgspec import Struct

KIB = 1024
MIB = 1024 * KIB
ECHOED_BYTES = 100 * MIB
"""Of all echoes of one length together, about."""


class Size(Struct, frozen=True):
    """Counts of one round, and seconds of what is watched for a while."""

    batches: int = 7
    calls: int = 500
    requests: int = 3000
    mapped: int = 10_000
    most_echoes: int = 200
    watched_seconds: float = 40.0
    busy_seconds: float = 20.0

    def echoes(self, length: int) -> int:
        """How many of so many bytes."""
        return max(min(ECHOED_BYTES // length, self.most_echoes), 3)


FULL = Size()
QUICK = Size(
    batches=3, calls=100, requests=500, most_echoes=30, watched_seconds=20.0, busy_seconds=8.0
)
