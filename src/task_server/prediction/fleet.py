"""When work is done on a fleet: drawn run times, handed out to slots as a server would.

Pure: draws come in, draws of moments go out; their quantiles are an ETA's. The end of a batch is
that of its last call, which no other slot can help with: no total over a number of slots tells it.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from task_server.prediction.history import Floats

DRAWS = 300
MAXIMUM_CELLS = 20_000_000
"""Draws x calls x slots that are looked at; beyond that fewer draws have to do."""
FEWEST_DRAWS = 60
_NINETIETH = 1.2816
"""Deviates of the normal distribution beyond which a tenth lies."""
Range = tuple[float, float, float]
"""p10, p50 and p90, in seconds."""


@dataclass(slots=True, frozen=True)
class Fleet:
    """Who works, and what they have to do first."""

    factors: Sequence[float]
    """Of each slot: how many times as long as on an average one a call takes there."""
    running: Sequence[Range]
    """What is left of the calls that run."""
    own: int
    """How many of them, the first, belong to what is asked about."""
    ahead: Range
    """Core-seconds of work that waits and goes first."""

    def of(self, slots: int) -> Fleet:
        """So many slots, by turns as fast as these, with the same to do."""
        known = self.factors
        return replace(self, factors=[known[index % len(known)] for index in range(slots)])


def spread_of(around: Range, deviates: Floats) -> Floats:
    """Possible values of a quantity of which three quantiles are known, by standard deviates."""
    low, middle, high = np.maximum(around, 1e-9)
    below = (np.log(middle) - np.log(min(low, middle))) / _NINETIETH
    above = (np.log(max(high, middle)) - np.log(middle)) / _NINETIETH
    found: Floats = np.exp(np.log(middle) + np.where(deviates < 0, below, above) * deviates)
    return found


def _busy(fleet: Fleet, draws: int, random: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Until when each slot is busy with what runs: draws x slots, seconds from now.

    Also when the last of the own calls among these ends, and what is left of these together.
    """
    slots = len(fleet.factors)
    busy = np.zeros((draws, slots))
    own_ends, own_left = np.zeros(draws), np.zeros(draws)
    for index, left in enumerate(fleet.running):
        slot = index % slots  # short calls lie one behind the other
        seconds = spread_of(left, random.standard_normal((draws,)))
        busy[:, slot] += seconds
        if index < fleet.own:
            own_left += seconds
            np.maximum(own_ends, busy[:, slot], out=own_ends)
    return busy, own_ends, own_left


def _level(free: Floats, factors: Floats, work: Floats) -> Floats:
    """Until when slots would be busy if that work flowed to whichever is free first."""
    order = np.argsort(free, axis=1)
    ordered = np.take_along_axis(free, order, axis=1)
    speeds = np.cumsum(1.0 / factors[order], axis=1)
    filled = np.cumsum(ordered / factors[order], axis=1)
    levels = (work[:, None] + filled) / speeds
    # The least number of slots whose level does not reach the next one's beginning.
    reaches_next = np.concatenate(
        [levels[:, :-1] > ordered[:, 1:], np.zeros((len(free), 1), bool)], axis=1
    )
    last = np.argmin(reaches_next, axis=1)
    found: Floats = levels[np.arange(len(free)), last]
    return found


def left_of_own(fleet: Fleet, draws: int, *, seed: int = 1) -> Floats:
    """Core-seconds left of the calls that run and belong to what is asked about, of each draw."""
    return _busy(fleet, draws, np.random.default_rng(seed))[2]


def makespans(times: Floats, fleet: Fleet, *, stands_for: float = 1.0, seed: int = 1) -> Floats:
    """Seconds until the last call has ended, of each draw.

    `times`: draws x calls, in the order in which they start. `stands_for`: of how many calls like
    it each is one; what the slots share evenly then takes as many times as long, the uneven end
    comes once.
    """
    draws, calls = times.shape
    factors = np.asarray(fleet.factors)
    random = np.random.default_rng(seed)
    free, ended, _ = _busy(fleet, draws, random)
    if fleet.ahead[1] > 0:
        work = spread_of(fleet.ahead, random.standard_normal((draws,)))
        free = np.maximum(free, _level(free, factors, work)[:, None])
    rows = np.arange(draws)
    for call in range(calls):
        slot = np.argmin(free, axis=1)
        free[rows, slot] += times[:, call] * factors[slot]
        np.maximum(ended, free[rows, slot], out=ended)
    found: Floats = ended + (stands_for - 1.0) * times.sum(axis=1) / (1.0 / factors).sum()
    return found


def least_slots(
    times: Floats,
    fleet: Fleet,
    *,
    within: float,
    levels: Sequence[float],
    stands_for: float = 1.0,
) -> list[int | None]:
    """On how many slots all is done within so many seconds, at each level; None: on none.

    `times`, `stands_for`: as for `makespans`.
    """
    calls = times.shape[1]
    most = math.ceil(calls * stands_for) + len(fleet.running)
    ends: dict[int, Floats] = {}

    def is_enough(slots: int, level: float) -> bool:
        if slots not in ends:
            some = times[: drawn(calls, slots)]
            ends[slots] = makespans(some, fleet.of(slots), stands_for=stands_for)
        return bool(np.quantile(ends[slots], level) <= within)

    def least(level: float) -> int | None:
        if not is_enough(most, level):
            return None
        return 1 + bisect_left(range(1, most), x=True, key=lambda slots: is_enough(slots, level))

    return [least(level) if most else 0 for level in levels]


def drawn(calls: int, slots: int) -> int:
    """How many draws are worth their time for so many calls and slots."""
    return int(min(max(MAXIMUM_CELLS / max(calls * slots, 1), FEWEST_DRAWS), DRAWS))
