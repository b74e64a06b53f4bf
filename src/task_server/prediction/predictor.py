"""How long calls will take: told before they run, learned when they have."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from task_server.prediction.effects import CATEGORIES, Effects, Kin
from task_server.prediction.experts import (
    COUNT,
    EFFECTS,
    STEADY_EFFECTS,
    Experts,
    Mixture,
    maturity,
)
from task_server.prediction.features import Features, features_of
from task_server.prediction.history import Floats, History, median
from task_server.prediction.intervals import LEVELS, Intervals

Outcome = Literal["succeeded", "failed", "timeout"]
BOUND = 25.0
"""Of log seconds; nobody waits for longer."""
SHORTEST = 1e-4
"""Seconds; shorter calls are all alike: handing them out takes longer."""
FUNCTIONS = 400
"""Functions known by their calls, those seen last; of others the shared effects are left."""
TIMEOUT_LEVEL = 0.75
"""What a call that ran out of time is taken to need: that quantile of what is above the limit."""
BEYOND_ALL = 1.5
"""Times the limit, where that is beyond all that was expected."""
SLOWEST = 2.0
"""Log of how many times slower or faster a worker is taken to be, at most."""
AT_ONCE = 64
"""Calls of one function that are estimated at once."""
FIRST_CALLS = 200
"""First calls of functions, remembered for the next function's first."""


@dataclass(slots=True, frozen=True)
class Call:
    """A call that may be made."""

    function: str
    """Dotted: package, module, name."""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] = field(default_factory=dict)
    worker: str | None = None
    versions: Mapping[str, str] | None = None


@dataclass(slots=True)
class Estimates:
    """What was predicted of some calls; all in log seconds."""

    medians: Floats
    """One a call."""
    around: Floats
    """Calls x LEVELS: what to add to the median."""
    experts: list[list[float]]
    """Calls x experts."""
    stages: list[int]
    """How well each call's function was known, maturity()."""

    def quantiles(self) -> Floats:
        """Seconds, calls x LEVELS."""
        found: Floats = self.medians[:, None] + self.around
        np.maximum(found, -BOUND, out=found)
        np.minimum(found, BOUND, out=found)
        return np.exp(found, out=found)

    def one(self, index: int) -> Estimates:
        """Of one call, as it is kept with it."""
        part = slice(index, index + 1)
        return Estimates(
            self.medians[part], self.around[part], self.experts[part], self.stages[part]
        )

    @staticmethod
    def of_parts(parts: Sequence[tuple[list[int], Estimates]], count: int) -> Estimates:
        """Of `count` calls, put together from some that are at those places each."""
        found = Estimates(
            np.empty(count),
            np.empty((count, len(LEVELS))),
            [[]] * count,
            [0] * count,
        )
        for places, part in parts:
            found.medians[places] = part.medians
            found.around[places] = part.around
            for place, experts, stage in zip(places, part.experts, part.stages, strict=True):
                found.experts[place], found.stages[place] = experts, stage
        return found


@dataclass(slots=True)
class _Seen:
    """A call as the parts see it."""

    features: Features
    categories: list[tuple[str, str]]
    kin: Kin
    worker: str | None


class Predictor:
    """Learns from calls in the order in which they are told."""

    def __init__(self) -> None:
        self.functions: dict[str, Experts] = {}
        self.effects = Effects()
        self.mixture = Mixture()
        self.intervals = Intervals()
        self.firsts: list[float] = []
        self._usual_first = 0.0

    def estimate(self, calls: Sequence[Call]) -> Estimates:
        """Predict each call, in the order given."""
        if len(calls) == 1:
            return self._of_function(calls[0].function, [_see(calls[0])])
        by_function: dict[str, list[int]] = defaultdict(list)
        for index, call in enumerate(calls):
            by_function[call.function].append(index)
        parts = [
            (part, self._of_function(function, [_see(calls[each]) for each in part]))
            for function, places in by_function.items()
            for part in _pieces(places)
        ]
        return Estimates.of_parts(parts, len(calls))

    def observe(
        self,
        call: Call,
        seconds: float,
        *,
        made: Estimates | None = None,
        outcome: Outcome = "succeeded",
    ) -> None:
        """A call took so long. `made`: its estimate, when one was kept with it.

        A failure's time says nothing of a success's; a time-out's is the least that it needs.
        """
        if outcome == "failed":
            return
        seen = _see(call)
        made = made or self._of_function(call.function, [seen])
        if outcome == "timeout":
            seconds = _beyond(seconds, made.quantiles()[0])
        time = float(np.log(max(seconds, SHORTEST)))
        self.intervals.learn(made.stages[0], time - float(made.medians[0]), made.around[0])
        if made.stages[0] < maturity(self.calls(call.function)):
            # It tells of what was known then, and nothing of how far off estimates are by now.
            made = self._of_function(call.function, [seen])
        experts = self._experts(call.function, time)
        self.mixture.learn(experts, made.experts[0], time, stage=made.stages[0])
        history = experts.history
        history.grow(seen.features, seen.categories, seen.worker)
        rows = history.rows([(seen.features, seen.categories, seen.worker)])
        error = time - float(made.medians[0])
        experts.learn(rows, time, predicted=made.experts[0], error=error)
        self.effects.learn(seen.kin.keys(), time)

    def calls(self, function: str) -> int:
        """How many calls of a function it has learned from."""
        experts = self.functions.get(function)
        return 0 if experts is None else experts.history.calls

    def error_factor(self, function: str) -> float | None:
        """How far off its medians were, for a function's last calls: 1.3 is by 30 % either way."""
        experts = self.functions.get(function)
        return None if experts is None else experts.history.error_factor()

    def is_varied(self, function: str) -> bool:
        """Whether its calls were told apart by more than their function."""
        experts = self.functions.get(function)
        return experts is not None and experts.history.is_varied()

    def slowness(self, worker: str) -> float:
        """How many times as long as on an average worker calls took on this one."""
        effect = self.effects.of_worker(worker)
        return math.exp(min(max(effect, -SLOWEST), SLOWEST))

    def _experts(self, function: str, time: float) -> Experts:
        experts = self.functions.pop(function, None)
        if experts is None:
            experts = Experts()
            self.firsts = [*self.firsts[1 - FIRST_CALLS :], time]
            self._usual_first = median(np.array(self.firsts))
            if len(self.functions) >= FUNCTIONS:
                del self.functions[next(iter(self.functions))]
        self.functions[function] = experts  # to the end: those seen last stay
        return experts

    def restore_firsts(self, firsts: list[float]) -> None:
        """Take the log seconds of functions' first calls."""
        self.firsts = firsts
        self._usual_first = median(np.array(firsts)) if firsts else 0.0

    def _of_function(self, function: str, seen: Sequence[_Seen]) -> Estimates:
        effects = self.effects.sums(function, [each.kin for each in seen])
        experts = self.functions.get(function)
        history = squares = None
        if experts is None:
            predicted = [self._first(*each) for each in effects]
        else:
            history = experts.history
            rows = history.rows([(each.features, each.categories, each.worker) for each in seen])
            predicted, squares = experts.predict(rows, effects)
        stage = maturity(0 if history is None else history.calls)
        return Estimates(
            np.array(self.mixture.mix(experts, predicted)),
            self._around(history, squares, seen),
            predicted,
            [stage] * len(seen),
        )

    def _around(
        self, history: History | None, squares: Floats | None, seen: Sequence[_Seen]
    ) -> Floats:
        """Quantiles of the error of calls of one function: calls x LEVELS, log seconds.

        Where all calls so far had the same arguments, what others do to its time is as little known
        as of a new function.
        """
        known = self.intervals.around(history, squares, len(seen))
        only = None if history is None else history.only_arguments()
        if only is None or all(each.features.digest == only for each in seen):
            return known
        is_other = np.array([each.features.digest != only for each in seen])
        return np.where(is_other[:, None], self.intervals.around(None, None, len(seen)), known)

    def _first(self, recent: float, steady: float) -> list[float]:
        """A function's first call: between what first calls took and what its kin's take."""
        predicted = [math.nan] * COUNT
        predicted[EFFECTS] = recent
        if self.firsts:
            predicted[EFFECTS] = 0.5 * (recent + self._usual_first)
            predicted[STEADY_EFFECTS] = steady
        return predicted


def _pieces(places: list[int]) -> Iterator[list[int]]:
    """A few at a time, whose tables the processor's cache can hold."""
    return (places[begin : begin + AT_ONCE] for begin in range(0, len(places), AT_ONCE))


def _beyond(limit: float, quantiles: Floats) -> float:
    """Seconds that a call which took longer than `limit` is taken to need in the end."""
    below = float(np.interp(limit, quantiles, LEVELS, left=0.0, right=1.0))
    level = below + TIMEOUT_LEVEL * (1.0 - below)
    if level <= LEVELS[-1]:
        return max(limit, float(np.interp(level, LEVELS, quantiles)))
    return limit * BEYOND_ALL


def _see(call: Call) -> _Seen:
    features = features_of(call.args, call.kwargs)
    categories = list(features.categories.items())
    shared = categories[:CATEGORIES]
    version = ""
    if call.worker is not None:
        categories.append(("worker", call.worker))
    if call.versions:
        categories += [(f"version {name}", text) for name, text in call.versions.items()]
        version = ", ".join(f"{name} {text}" for name, text in sorted(call.versions.items()))
    kin = Kin(call.function, call.worker, version, shared, f"{features.digest:x}")
    return _Seen(features, categories, kin, call.worker)
