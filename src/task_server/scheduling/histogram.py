"""A histogram of run times on a logarithmic scale: exact counts, four bins to each doubling."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import add

SMALLEST_SECONDS = 1e-6
MOST_SECONDS = 1e9
BINS_PER_DOUBLING = 4
BINS = 160  # up to 2^40 us, 12 days
_LOG_SMALLEST = math.log(SMALLEST_SECONDS)
_SCALE = BINS_PER_DOUBLING / math.log(2)


def log_of(seconds: float) -> float:
    """The logarithm of a run time that the scale can hold."""
    return (
        math.log(min(seconds, MOST_SECONDS)) if seconds > SMALLEST_SECONDS else _LOG_SMALLEST
    )  # nor NaN


def bin_of(seconds: float) -> int:
    """The bin that holds a run time."""
    return min(int((log_of(seconds) - _LOG_SMALLEST) * _SCALE), BINS - 1)


def seconds_at(position: float) -> float:
    """The run time at a place on the scale; whole numbers are the lower edges of bins."""
    return SMALLEST_SECONDS * math.exp(position / _SCALE)


class Histogram:
    """Counts of run times."""

    __slots__ = ("counts", "total")

    def __init__(self, data: bytes = b"") -> None:
        self.counts = array("Q", data or bytes(8 * BINS))
        self.total = sum(self.counts)

    def add_all(self, seconds: Sequence[float]) -> list[float]:
        """Count run times; gives their logarithms."""
        log, counts = math.log, self.counts
        logs = [
            log(each) if SMALLEST_SECONDS < each < MOST_SECONDS else log_of(each)
            for each in seconds
        ]
        for found in [int((each - _LOG_SMALLEST) * _SCALE) for each in logs]:
            counts[found if found < BINS else BINS - 1] += 1
        self.total += len(logs)
        return logs

    def quantiles(self, levels: tuple[float, ...]) -> list[float]:
        """Run times in seconds below which these shares of the counts lie, levels ascending.

        Within a bin the counts are taken as evenly spread on the logarithmic scale. All zeros when
        nothing was counted.
        """
        if not self.total:
            return [0.0] * len(levels)
        counts, found = self.counts, []
        below, index = 0, 0
        for level in levels:
            wanted = level * self.total
            while below + counts[index] < wanted and index < BINS - 1:
                below += counts[index]
                index += 1
            share = (wanted - below) / counts[index] if counts[index] else 0.5
            found.append(index + (0.0 if share < 0.0 else 1.0 if share > 1.0 else share))
        return [seconds_at(position) for position in found]

    def square_seconds(self) -> float:
        """The sum of the squares of the run times, as far as the bins tell."""
        return sum(
            count * seconds_at(index + 0.5) ** 2 for index, count in enumerate(self.counts) if count
        )

    def copy(self) -> Histogram:
        """One that is counted apart."""
        copied = Histogram.__new__(Histogram)
        copied.counts, copied.total = self.counts[:], self.total
        return copied

    def include(self, other: Histogram) -> None:
        """Count what the other has counted, too."""
        self.counts = array("Q", map(add, self.counts, other.counts))
        self.total += other.total

    def to_bytes(self) -> bytes:
        """What `Histogram(data)` takes."""
        return self.counts.tobytes()
