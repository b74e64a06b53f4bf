"""Intervals that tell the truth: quantiles of past errors, held to their levels as calls end.

A function's own errors, the newer and the nearer calls' first, with a few of all functions that
were as young. Then each level is moved a little after every call by whether it was met (adaptive
conformal inference, Gibbs and Candes 2021).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.experts import MATURITIES, maturity
from task_server.prediction.history import CALLS, Floats, History, falling, size_of

LEVELS: NDArray[np.float64] = np.array([0.05, 0.1, 0.5, 0.9, 0.95, 0.99])
AGE_WEIGHT = 0.993
FAR_WEIGHT = 0.12
"""Weight of an error of a call that is not like this one."""
KIN_WEIGHT = 10.0
"""Calls that the errors of other functions count for."""
KIN_ERRORS = 400
KIN_POINTS = 40
"""Quantiles that stand for them."""
ENOUGH_KIN = 20
FEW_ROWS = 3
"""From so many rows on their quantiles are found level by level, not row by row."""
STEP = 0.03
FARTHEST = 0.3
OUTERMOST = 0.001
"""Levels are kept so far from 0 and 1."""
GUESS: NDArray[np.float64] = np.array([-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0])
"""Errors of a function of which nothing is known, nor of any other: log seconds."""
GUESS_SIZE = 1.0
_BY_AGE = falling(AGE_WEIGHT)
_SO_FAR: list[float] = (AGE_WEIGHT ** np.arange(CALLS)).cumsum().tolist()
"""The weights of 1, 2, 3 ... calls together."""
_PACED: list[tuple[float, float]] = [
    (level, STEP * (2 * min(level, 1 - level)) ** 0.5) for level in LEVELS.tolist()
]
"""Each level, and how far it is moved by a call."""


class Intervals:
    """What all functions share: errors and shifted levels by maturity."""

    def __init__(self) -> None:
        self.kin: list[deque[float]] = [deque(maxlen=KIN_ERRORS) for _ in range(MATURITIES)]
        self._kin_points: list[tuple[int, Floats, float]] = [_points_of(()) for _ in self.kin]
        """Of each maturity: errors not looked at yet, quantiles of the others, their usual size."""
        self.shifts = [[0.0] * len(LEVELS) for _ in range(MATURITIES)]
        self._levels = [_shifted(shifts) for shifts in self.shifts]

    def around(self, history: History | None, squares: Floats | None, count: int) -> Floats:
        """Quantiles of the error of `count` calls of one function: count x LEVELS, log seconds."""
        stage = maturity(0 if history is None else history.calls)
        levels = self._levels[stage]
        kin, usual = self._kin(stage)
        if history is None or not history.size:
            return _each(_quantiles(kin, np.ones((1, len(kin))), levels), count)
        size = history.size
        errors = np.concatenate([history.errors[:size], kin * _scale(history, usual)])
        table = np.empty((1 if squares is None else count, len(errors)))
        if squares is None:
            table[:, :size] = history.by_age(_BY_AGE)
        else:
            near = np.exp(-2.0 * squares)
            near += FAR_WEIGHT
            np.multiply(near, history.by_age(_BY_AGE), out=table[:, :size])
        table[:, size:] = KIN_WEIGHT / len(kin)
        return _each(_quantiles(errors, table, levels), count)

    def _kin(self, stage: int) -> tuple[Floats, float]:
        """Errors of functions as young as that, and how large they are usually."""
        for each in (stage, max(stage - 1, 0)):
            count = len(self.kin[each])
            if count >= ENOUGH_KIN:
                news, points, usual = self._kin_points[each]
                if news > count // 16:
                    _, points, usual = self._kin_points[each] = _points_of(self.kin[each])
                return points, usual
        return GUESS, GUESS_SIZE

    def learn(self, stage: int, error: float, around: Floats) -> None:
        """A call predicted at that maturity was missed by `error`, its quantiles were `around`."""
        self.kin[stage].append(error)
        news, points, usual = self._kin_points[stage]
        self._kin_points[stage] = (news + 1, points, usual)
        self.shifts[stage] = [
            min(max(shift + pace * (level - (error <= quantile)), -FARTHEST), FARTHEST)
            for shift, (level, pace), quantile in zip(
                self.shifts[stage], _PACED, around.tolist(), strict=True
            )
        ]
        self._levels[stage] = _shifted(self.shifts[stage])

    def state(self) -> dict[str, Any]:
        """All of it, to be saved."""
        kin = [list(errors) for errors in self.kin]
        return {"kin": kin, "kin_points": self._kin_points, "shifts": self.shifts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self.kin = [deque(errors, maxlen=KIN_ERRORS) for errors in state["kin"]]
        self._kin_points = [(news, points, usual) for news, points, usual in state["kin_points"]]
        self.shifts = state["shifts"]
        self._levels = [_shifted(shifts) for shifts in self.shifts]


def _shifted(shifts: Sequence[float]) -> Floats:
    """Where to look for the quantiles; ascending, so that these never cross."""
    found, highest = [], OUTERMOST
    for (level, _), shift in zip(_PACED, shifts, strict=True):
        highest = max(highest, level + shift)
        found.append(min(highest, 1.0 - OUTERMOST))
    return np.array(found)


def _points_of(errors: Collection[float]) -> tuple[int, Floats, float]:
    if not errors:
        return KIN_ERRORS, GUESS, GUESS_SIZE
    ordered = np.sort(np.array(errors))
    places = (np.arange(KIN_POINTS) + 0.5) / KIN_POINTS * len(ordered) - 0.5
    return 0, np.interp(places, np.arange(len(ordered)), ordered), size_of(ordered)


def _each(found: Floats, count: int) -> Floats:
    """One row for each call, where one stands for all."""
    return found if len(found) == count else np.broadcast_to(found, (count, len(LEVELS)))


def _scale(history: History, usual: float) -> float:
    """How much wider this function's errors are than the others'."""
    if history.size < 8 or usual <= 1e-6:
        return 1.0
    total = _SO_FAR[history.size - 1]
    found = (history.error_size / usual * total + 5.0) / (total + 5.0)
    return min(max(found, 0.1), 10.0)


def _quantiles(errors: Floats, weights: Floats, levels: Floats) -> Floats:
    """Weighted quantiles, a row of `weights` each."""
    order = errors.argsort(kind="stable")
    ordered, heavy = errors.take(order), weights.take(order, axis=1)
    middle = np.add.accumulate(heavy, axis=1)
    totals = middle[:, -1].copy()
    heavy *= 0.5
    middle -= heavy
    if len(weights) < FEW_ROWS:
        rows = zip(totals.tolist(), middle, strict=True)
        return np.array([np.interp(levels * total, row, ordered) for total, row in rows])
    middle /= totals[:, None]
    return _interpolated(levels, middle, ordered)


def _interpolated(levels: Floats, middle: Floats, ordered: Floats) -> Floats:
    """np.interp of all levels in each row of `middle`, whose values lie between 0 and 1."""
    rows, width = middle.shape
    begin = np.arange(rows)[:, None]
    middle += begin  # one ascending line of all rows, in which to look for all levels at once
    wanted = begin + levels
    line = middle.ravel()
    right = np.searchsorted(line, wanted, side="right") - begin * width
    right = np.clip(right, 1, width - 1)
    below, above = line[begin * width + right - 1], line[begin * width + right]
    share = np.clip((wanted - below) / np.maximum(above - below, 1e-300), 0.0, 1.0)
    found: Floats = ordered[right - 1] + share * (ordered[right] - ordered[right - 1])
    return found
