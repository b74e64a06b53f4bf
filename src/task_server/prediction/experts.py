"""A function's experts: simple predictors, each right for some functions, and how they are mixed.

Each call's prediction is their weighted mean, the weight falling steeply with an expert's recent
error on this function, shrunk to its error on all functions that were as young (JamaisVu and
3Sigma pick one expert by its error so far; a mixture is steadier).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.history import CALLS, Floats, History, Rows
from task_server.prediction.regression import (
    ROOM,
    Recent,
    Steady,
    distances,
    fit_recent,
    fit_steady,
    nearest_left,
)

EXPERTS = (
    "effects",
    "same",
    "last",
    "average",
    "median",
    "recent",
    "nearest",
    "steady",
    "same left",
    "steady effects",
)
COUNT = len(EXPERTS)
(EFFECTS, SAME, LAST, AVERAGE, MEDIAN, RECENT, NEAREST, STEADY, SAME_LEFT, STEADY_EFFECTS) = range(
    COUNT
)
STEEPNESS = 8.0
PSEUDO_CALLS = 6.0
LOSS_DECAY = 0.95
KIN_DECAY = 0.99
"""Of the losses over all functions of one maturity."""
LARGEST_LOSS = 6.0
UNKNOWN_LOSS = 1.5
FIRST_FIT = 3
MATURITIES = 10
SAME_CALLS = 5
"""How many of the last calls with the same arguments count."""
_NONE = [0.0] * COUNT
_BY_RECENCY = 0.8 ** np.arange(CALLS)
_SO_FAR: list[float] = _BY_RECENCY.cumsum().tolist()


def maturity(calls: int) -> int:
    """How well a function is known: 0, 1, 2, 3-4, 5-8, ... calls."""
    return calls if calls < 3 else min((calls - 1).bit_length() + 1, MATURITIES - 1)


class Experts:
    """Those of one function."""

    def __init__(self) -> None:
        self.history = History()
        self.recent: Recent | None = None
        self.steady: Steady | None = None
        self.losses = [0.0] * COUNT
        """What each expert missed calls by, summed with decay."""
        self.counts = [0.0] * COUNT
        """How many calls these were."""
        self._next_fit = FIRST_FIT

    def predict(
        self, rows: Rows, effects: Sequence[tuple[float, float]]
    ) -> tuple[list[list[float]], Floats | None]:
        """Log seconds by each expert (calls x COUNT, NaN: cannot tell), and squared distances.

        `effects`: those of Effects.sums, one a call.
        """
        usual = self._told_of_all()
        found = [[recent, *usual, steady] for recent, steady in effects]
        squares = None
        if self.recent is not None:
            squares = self._tell_recent(self.recent, rows, found)
        if self.steady is not None:
            for row, told in zip(found, self.steady.predict(rows), strict=True):
                row[STEADY] = self._within(told)
        self._tell_same(rows, found)
        return found, squares

    def _told_of_all(self) -> list[float]:
        """By the experts that say the same of any call; NaN in place of the others."""
        told = [math.nan] * COUNT
        history = self.history
        told[LAST] = _mean_of(history.last)
        told[AVERAGE], told[MEDIAN] = history.average, history.median
        return told[SAME:STEADY_EFFECTS]

    def _tell_same(self, rows: Rows, found: list[list[float]]) -> None:
        """By the calls that had the same arguments, those on the same worker where there are."""
        history, recent = self.history, self.recent
        known = history.same(rows)
        usual: dict[tuple[int, int], float] = {}
        left: dict[int, float] = {}
        if recent is not None:
            left = {digest: _left_of(recent, same) for digest, same in known.items()}
        for row, digest, worker in zip(found, rows.arguments, rows.workers, strict=True):
            if digest not in known:
                continue
            if (digest, worker) not in usual:
                times = history.times_on(known[digest], worker)[:SAME_CALLS]
                usual[digest, worker] = statistics.median(times)
            row[SAME] = usual[digest, worker]
            if digest in left:
                row[SAME_LEFT] = row[RECENT] + left[digest]

    def _tell_recent(self, recent: Recent, rows: Rows, found: list[list[float]]) -> Floats:
        predicted, here = recent.predict(rows.numbers)
        squares = distances(recent, here)
        left = nearest_left(recent, squares)
        for row, told, more in zip(found, predicted, left, strict=True):
            row[RECENT] = held = self._within(told)
            row[NEAREST] = held + more
        return squares

    def _within(self, told: float) -> float:
        history = self.history
        return min(max(told, history.least - ROOM), history.most + ROOM)

    def learn(self, rows: Rows, time: float, *, predicted: list[float], error: float) -> None:
        """A call took `time`; `predicted` by each expert, missed by `error` all together."""
        row = self.history.add(rows, time, error=error)
        if self.history.calls >= self._next_fit:
            self._fit()
        elif self.recent is not None:
            told = predicted[RECENT]
            left = 0.0 if math.isnan(told) else time - told
            self.recent.note(row, rows.numbers, left)

    def _fit(self) -> None:
        self._next_fit = self.history.calls + max(1, self.history.size // 12)
        self.recent = fit_recent(self.history)
        self.steady = fit_steady(self.history)


def _left_of(recent: Recent, same: NDArray[np.intp]) -> float:
    """What the regression left of these calls, newest first."""
    count = len(same)
    return float(_BY_RECENCY[:count] @ recent.left[same]) / (_SO_FAR[count - 1] + 0.5)


def _mean_of(times: Sequence[float]) -> float:
    return math.log(sum(map(math.exp, times)) / len(times))


def _mixed(weights: list[float], predicted: list[float]) -> float:
    total = trust = 0.0
    for weight, told in zip(weights, predicted, strict=True):
        if told == told:  # not NaN
            total += weight * told
            trust += weight
    return total / trust


class Mixture:
    """How far the experts can be trusted, over all functions and for each."""

    def __init__(self) -> None:
        self.losses = [[1.0] * COUNT for _ in range(MATURITIES)]
        """As in Experts, of the calls of all functions that were as young."""
        self.counts = [[0.0] * COUNT for _ in range(MATURITIES)]

    def mix(self, experts: Experts | None, predicted: Sequence[list[float]]) -> list[float]:
        """Log seconds of each row of `predicted`."""
        weights = self._weights(experts)
        return [_mixed(weights, row) for row in predicted]

    def _weights(self, experts: Experts | None) -> list[float]:
        """How far each expert is trusted, by what it is expected to miss the next call by."""
        stage = maturity(0 if experts is None else experts.history.calls)
        own = (_NONE, _NONE) if experts is None else (experts.losses, experts.counts)
        kin = self.losses[stage], self.counts[stage]
        found = []
        for loss, count, own_loss, own_count in zip(*kin, *own, strict=True):
            usual = loss / count if count > 0.0 else UNKNOWN_LOSS
            expected = (own_loss + PSEUDO_CALLS * usual) / (own_count + PSEUDO_CALLS)
            found.append((expected + 0.01) ** -STEEPNESS)
        return found

    def learn(self, experts: Experts, predicted: list[float], time: float, *, stage: int) -> None:
        """What each expert missed a call by, that was predicted at that maturity."""
        kin_losses, kin_counts = self.losses[stage], self.counts[stage]
        for expert, told in enumerate(predicted):
            kin_losses[expert] *= KIN_DECAY
            kin_counts[expert] *= KIN_DECAY
            if told != told:  # NaN: it cannot tell
                continue
            loss = min(abs(told - time), LARGEST_LOSS)
            kin_losses[expert] += loss
            kin_counts[expert] += 1.0
            experts.losses[expert] = experts.losses[expert] * LOSS_DECAY + loss
            experts.counts[expert] = experts.counts[expert] * LOSS_DECAY + 1.0

    def state(self) -> dict[str, Any]:
        """All of it, to be saved."""
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self.losses, self.counts = state["losses"], state["counts"]
