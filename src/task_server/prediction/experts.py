"""A function's experts: simple predictors, each right for some functions, and how they are mixed.

Each call's prediction is their weighted mean, the weight falling steeply with an expert's recent
error on this function, shrunk to its error on all functions that were as young (JamaisVu and
3Sigma pick one expert by its error so far; a mixture is steadier).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.history import CALLS, Floats, History, Rows, median
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
FIRST_FIT = 3
MATURITIES = 10
SAME_CALLS = 5
"""How many of the last calls with the same arguments count."""
_BY_RECENCY = 0.8 ** np.arange(CALLS)


def maturity(calls: int) -> int:
    """How well a function is known: 0, 1, 2, 3-4, 5-8, ... calls."""
    return calls if calls < 3 else min((calls - 1).bit_length() + 1, MATURITIES - 1)


class Experts:
    """Those of one function."""

    def __init__(self) -> None:
        self.history = History()
        self.recent: Recent | None = None
        self.steady: Steady | None = None
        self.losses = np.zeros(COUNT)
        self.counts = np.zeros(COUNT)
        self.failures = 0.0
        """The share of its calls that failed, of late."""
        self._next_fit = FIRST_FIT

    def predict(self, rows: Rows, effects: Floats) -> tuple[Floats, NDArray[np.float64] | None]:
        """Log seconds by each expert (calls x COUNT, NaN: cannot tell), and squared distances.

        `effects`: those of Effects.sums, calls x 2.
        """
        found = np.full((len(rows.arguments), COUNT), np.nan)
        found[:, EFFECTS], found[:, STEADY_EFFECTS] = effects[:, 0], effects[:, 1]
        history = self.history
        found[:, AVERAGE], found[:, MEDIAN] = history.average, history.median
        found[:, LAST] = _mean_of(history.last)
        squares = None
        if self.recent is not None:
            squares = self._tell_recent(rows, found)
        if self.steady is not None:
            found[:, STEADY] = self._within(self.steady.predict(rows))
        self._tell_same(rows, found)
        return found, squares

    def _tell_same(self, rows: Rows, found: Floats) -> None:
        history, recent = self.history, self.recent
        for index, same in history.same(rows):
            on_worker = history.on_worker(same, int(rows.workers[index]))[:SAME_CALLS]
            found[index, SAME] = median(history.times[on_worker])
            if recent is not None:
                left = recent.left[same]
                weights = _BY_RECENCY[: len(left)]
                more = float(weights @ left) / (float(weights.sum()) + 0.5)
                found[index, SAME_LEFT] = found[index, RECENT] + more

    def _tell_recent(self, rows: Rows, found: Floats) -> Floats:
        assert self.recent is not None
        standard = self.recent.standard(rows.numbers)
        predicted = self._within(self.recent.predict(standard))
        squares = distances(self.recent, standard)
        found[:, RECENT] = predicted
        found[:, NEAREST] = predicted + nearest_left(self.recent, squares)
        return squares

    def _within(self, predicted: Floats) -> Floats:
        return np.clip(predicted, self.history.least - ROOM, self.history.most + ROOM)

    def learn(self, rows: Rows, time: float, *, predicted: Floats, error: float) -> None:
        """A call took `time`; `predicted` by each expert, missed by `error` all together."""
        row = self.history.add(rows, time, error=error)
        if self.history.calls >= self._next_fit:
            self._fit()
        elif self.recent is not None:
            told = predicted[RECENT]
            left = 0.0 if math.isnan(told) else time - float(told)
            self.recent.note(row, self.recent.standard(rows.numbers), left)

    def _fit(self) -> None:
        self._next_fit = self.history.calls + max(1, self.history.size // 12)
        self.recent = fit_recent(self.history)
        self.steady = fit_steady(self.history)


def _mean_of(times: Sequence[float]) -> float:
    return math.log(sum(map(math.exp, times)) / len(times))


class Mixture:
    """How far the experts can be trusted, over all functions and for each."""

    def __init__(self) -> None:
        self.losses = np.ones((MATURITIES, COUNT))
        self.counts = np.zeros((MATURITIES, COUNT))
        self._kin: dict[int, Floats] = {}

    def mix(self, experts: Experts | None, predicted: Floats) -> Floats:
        """Log seconds of each row of `predicted`."""
        calls = 0 if experts is None else experts.history.calls
        stage = maturity(calls)
        kin = self._of_kin(stage)
        if experts is None:
            loss = kin
        else:
            loss = (experts.losses + PSEUDO_CALLS * kin) / (experts.counts + PSEUDO_CALLS)
        can_tell = ~np.isnan(predicted)
        weights = np.where(can_tell, (loss + 0.01) ** -STEEPNESS, 0.0)
        weighted = (weights * np.where(can_tell, predicted, 0.0)).sum(axis=1)
        found: Floats = weighted / weights.sum(axis=1)
        return found

    def _of_kin(self, stage: int) -> Floats:
        found = self._kin.get(stage)
        if found is None:
            counts = self.counts[stage]
            found = np.where(counts > 0, self.losses[stage] / np.maximum(counts, 1e-9), 1.5)
            self._kin[stage] = found
        return found

    def learn(self, experts: Experts, predicted: Floats, time: float, *, stage: int) -> None:
        """What each expert missed a call by, that was predicted at that maturity."""
        can_tell = ~np.isnan(predicted)
        loss = np.where(can_tell, np.minimum(np.abs(predicted - time), LARGEST_LOSS), 0.0)
        self._kin.pop(stage, None)
        self.losses[stage] = self.losses[stage] * KIN_DECAY + loss
        self.counts[stage] = self.counts[stage] * KIN_DECAY + can_tell
        decay = np.where(can_tell, LOSS_DECAY, 1.0)
        experts.losses = experts.losses * decay + loss
        experts.counts = experts.counts * decay + can_tell

    def state(self) -> dict[str, Any]:
        """All of it, to be saved."""
        return {"losses": self.losses, "counts": self.counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self.losses, self.counts = state["losses"], state["counts"]
        self._kin.clear()
