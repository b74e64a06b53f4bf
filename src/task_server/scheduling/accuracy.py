"""How far off a function's estimates were, judged by what each task was leased with."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from operator import le, sub
from struct import Struct as Layout

from msgspec import Struct

RECENT = 100
"""The last calls, which are judged apart from all."""
_SUMS = Layout("<QQddQQ")


Call = tuple[float, float, float, float]
"""Seconds that it took, their logarithm, p50 (negative: a guess) and p90 as it was leased with."""


class Judgement(Struct, frozen=True):
    """How estimates did over some calls."""

    calls: int
    error_factor: float | None
    """exp of the mean |log(p50 / seconds)|: 1.3 is off by 30 % either way. None without calls."""
    bias_factor: float | None
    """exp of the mean log(seconds / p50): above 1, calls took longer than was said."""
    at_most_p50: float | None
    """Share of calls that took no longer; 0.5 is right."""
    at_most_p90: float | None
    """0.9 is right."""


class Accuracy:
    """Sums over the successes of one function, exact."""

    __slots__ = (
        "bias",
        "error",
        "guessed",
        "judged",
        "on_high",
        "on_median",
        "recent",
        "recent_on_high",
    )

    def __init__(self, data: bytes = b"") -> None:
        sums = _SUMS.unpack_from(data) if data else (0, 0, 0.0, 0.0, 0, 0)
        self.judged: int = sums[0]
        """Calls with an estimate that rested on the function's own calls."""
        self.guessed: int = sums[1]
        """Calls of the function before anything of it was known: they are not judged."""
        self.error: float = sums[2]
        self.bias: float = sums[3]
        self.on_median: int = sums[4]
        self.on_high: int = sums[5]
        kept = (len(data) - _SUMS.size) // 5 if data else 0
        end = _SUMS.size + 4 * kept
        self.recent = array("f", data[_SUMS.size : end])
        """log(seconds / p50) of the last calls."""
        self.recent_on_high = bytearray(data[end:])

    def settle(self, calls: Sequence[Call]) -> None:
        """Judge calls, in their order."""
        known = [call for call in calls if call[2] >= 0.0]
        self.guessed += len(calls) - len(known)
        if not known:
            return
        # A group may end a thousand tasks: no Python code for each of them.
        seconds, log_seconds, predicted, high = zip(*known, strict=True)
        logs = {each: math.log(max(each, 1e-6)) for each in set(predicted)}
        offs = list(map(sub, log_seconds, map(logs.__getitem__, predicted)))
        on_high = bytes(map(le, seconds, high))
        self.judged += len(known)
        self.bias += sum(offs)
        self.error += sum(map(abs, offs))
        self.on_median += sum(map((0.0).__ge__, offs))
        self.on_high += sum(on_high)
        self.recent.extend(offs[-RECENT:])
        self.recent_on_high += on_high[-RECENT:]
        del self.recent[:-RECENT], self.recent_on_high[:-RECENT]

    def to_bytes(self) -> bytes:
        """What `Accuracy(data)` takes."""
        sums = (
            self.judged,
            self.guessed,
            self.error,
            self.bias,
            self.on_median,
            self.on_high,
        )
        return _SUMS.pack(*sums) + self.recent.tobytes() + bytes(self.recent_on_high)


def overall(parts: Sequence[Accuracy]) -> Judgement:
    """Of all calls, counted in parts."""
    calls = sum(each.judged for each in parts)
    return _judgement(
        calls,
        error=sum(each.error for each in parts),
        bias=sum(each.bias for each in parts),
        on_median=sum(each.on_median for each in parts),
        on_high=sum(each.on_high for each in parts),
    )


def lately(parts: Sequence[Accuracy]) -> Judgement:
    """Of the last calls of each part."""
    # Not strict: a store may be counting on in its own thread.
    last = [each for part in parts for each in zip(part.recent, part.recent_on_high, strict=False)]
    return _judgement(
        len(last),
        error=sum(abs(off) for off, _ in last),
        bias=sum(off for off, _ in last),
        on_median=sum(off <= 0.0 for off, _ in last),
        on_high=sum(is_on_high for _, is_on_high in last),
    )


def _judgement(calls: int, *, error: float, bias: float, on_median: int, on_high: int) -> Judgement:
    if not calls:
        return Judgement(0, None, None, None, None)
    return Judgement(
        calls,
        math.exp(min(error / calls, 700.0)),
        math.exp(max(min(bias / calls, 700.0), -700.0)),
        on_median / calls,
        on_high / calls,
    )


class JudgedTotals(Struct, frozen=True):
    """How the totals did that were told for batches at their submit."""

    batches: int
    error_factor: float | None
    """exp of the mean |log(p50 / core-seconds)|; None without batches."""
    bias_factor: float | None
    within: float | None
    """Share of batches from p10 to p90; 0.8 is right."""


def of_totals(told: Sequence[tuple[float, float, float, float]]) -> JudgedTotals:
    """Each: p10, p50 and p90 in core-seconds, and what the batch took."""
    if not told:
        return JudgedTotals(0, None, None, None)
    offs = [math.log(max(seconds, 1e-6) / max(p50, 1e-6)) for _, p50, _, seconds in told]
    return JudgedTotals(
        len(told),
        math.exp(sum(map(abs, offs)) / len(offs)),
        math.exp(sum(offs) / len(offs)),
        sum(low <= seconds <= high for low, _, high, seconds in told) / len(told),
    )
