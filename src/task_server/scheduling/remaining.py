"""What is left of a call that runs: a prediction that was outlived is corrected at once."""

from __future__ import annotations

from task_server.scheduling.histogram import BINS, seconds_at
from task_server.scheduling.statistics import Price, Statistics

LEVELS = (0.1, 0.5, 0.9)


def remaining(price: Price, known: Statistics | None, elapsed: float) -> tuple[float, float, float]:
    """p10, p50 and p90 of the seconds left of a call that runs since `elapsed`.

    Among the calls that took longer than that; without any such call, as long again as it took.
    """
    if known is None or not known.calls:
        return (
            max(price.p10 - elapsed, elapsed / 10),
            max(price.p50 - elapsed, elapsed),
            max(price.p90 - elapsed, elapsed * 10),
        )
    longer = [
        (seconds_at(bin_ + 0.5) - elapsed, known.histogram.counts[bin_])
        for bin_ in range(BINS)
        if known.histogram.counts[bin_] and seconds_at(bin_ + 0.5) > elapsed
    ]
    if not longer:
        return elapsed / 10, elapsed, elapsed * 10
    low, middle, high = (_at(level, longer) for level in LEVELS)
    return low, middle, high


def _at(level: float, longer: list[tuple[float, int]]) -> float:
    """The left seconds below which that share of the calls ended; (left, count), ascending."""
    wanted = level * sum(count for _, count in longer)
    for left, count in longer:
        wanted -= count
        if wanted <= 0:
            return left
    return longer[-1][0]
