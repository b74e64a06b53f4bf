"""The estimator's work: a predictor, told of calls that ended and asked of others."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from task_server.prediction import fleet as fleets
from task_server.prediction.explain import influences, unexplained
from task_server.prediction.fleet import drawn, least_slots, left_of_own, makespans
from task_server.prediction.history import Floats
from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import Estimates, Predictor
from task_server.prediction.saving import (
    Unreadable,
    load_function,
    load_shared,
    save_function,
    save_shared,
)
from task_server.prediction.totals import draw
from task_server.server.estimator.arguments import call_of
from task_server.server.estimator.messages import (
    Ask,
    Basis,
    Explain,
    Explained,
    Fleet,
    Influence,
    Known,
    Learn,
    Learned,
    Load,
    Range,
    Reply,
    Request,
    Sample,
    Save,
    Saved,
    Told,
)

_SHOWN = [int(abs(LEVELS - level).argmin()) for level in (0.1, 0.5, 0.9, 0.99)]
_HIGH = _SHOWN[2]
MAXIMUM_SLOTS = 1024
"""More are not told apart: such fleets have many batches at once."""


class Learner:
    """Answers requests, one after the other."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._predictor = Predictor()
        self._numbers: dict[str, int] = {}
        """Of the functions that it knows, by name."""
        self._changed: set[str] = set()
        """Functions with news since they were saved."""

    def answer(self, request: Request) -> Reply:
        """Do what is asked."""
        match request:
            case Learn():
                return self._learn(request)
            case Ask():
                return self._tell(request)
            case Explain():
                return self._explain(request)
            case Load():
                return self._load(request)
            case Save():
                return self._save()

    def _learn(self, request: Learn) -> Learned:
        began = time.process_time()
        for sample in request.samples:
            self._observe(sample)
        names = {sample.known.function: sample.known.name for sample in request.samples}
        return self._learned(names, time.process_time() - began)

    def _learned(self, names: Mapping[int, str], cpu_seconds: float) -> Learned:
        return Learned(
            cpu_seconds,
            {number: self._predictor.calls(name) for number, name in names.items()},
            [number for number, name in names.items() if self._predictor.is_varied(name)],
        )

    def _observe(self, sample: Sample) -> None:
        call = call_of(sample.known, sample.arguments, sample.worker)
        outcome = sample.outcome
        assert outcome in ("succeeded", "failed", "timeout")
        self._predictor.observe(call, sample.seconds, outcome=outcome)  # type: ignore[arg-type]  # one of these
        self._numbers[call.function] = sample.known.function
        self._changed.add(call.function)

    def _tell(self, request: Ask) -> Told:
        began = time.process_time()
        calls = [call_of(request.known[index], arguments) for index, arguments in request.calls]
        estimates = self._predictor.estimate(calls)
        total, etas, slots = self._together(request, estimates, [call.function for call in calls])
        return Told(
            [tuple(row) for row in estimates.quantiles()[:, _SHOWN].tolist()],
            total,
            etas[0] if etas else None,
            [self._basis(known) for known in request.known],
            len(self._predictor.functions),
            time.process_time() - began,
            etas[1:],
            slots,
        )

    def _together(
        self, request: Ask, estimates: Estimates, functions: Sequence[str]
    ) -> tuple[Range, list[Range], list[int | None]]:
        """Of all calls: core-seconds, seconds until they are done, also on more slots.

        And how many slots they need, where a time was given.
        """
        fleet = None if request.fleet is None else self._fleet(request.fleet)
        slots = 1 if fleet is None else len(fleet.factors)
        times = draw(estimates, functions, drawn(len(functions), slots))
        stands_for = request.count / max(len(functions), 1)
        work = times.sum(axis=1) * stands_for
        if fleet is None:
            return _range(work), [], []
        total = _range(work + left_of_own(fleet, len(work)))
        if not request.in_order:
            highest = estimates.medians + estimates.around[:, _HIGH]
            times = times[:, np.argsort(-highest, kind="stable")]
        looked_at = [fleet, *(fleet.of(more * slots) for more in request.times)]
        etas = [_range(makespans(times, each, stands_for=stands_for)) for each in looked_at]
        if request.within is None:
            return total, etas, []
        needed = least_slots(
            times, fleet, within=request.within, levels=(0.5, 0.9), stands_for=stands_for
        )
        return total, etas, needed

    def _fleet(self, told: Fleet) -> fleets.Fleet:
        factors = [
            self._predictor.slowness(worker) for worker, slots in told.slots for _ in range(slots)
        ]
        return fleets.Fleet(factors[:MAXIMUM_SLOTS], told.running, told.own, told.ahead)

    def _explain(self, request: Explain) -> Explained:
        experts = self._predictor.functions.get(request.name)
        if experts is None:
            return Explained(0, [])
        found = influences(experts.history)
        return Explained(
            experts.history.calls,
            [Influence(i.feature, i.factor, i.exponent, i.least, i.most) for i in found],
            unexplained(experts.history).tolist() if found else [],
        )

    # ---- keeping what was learned

    def _load(self, request: Load) -> Learned:
        """Take back what can be read; what another version wrote is learned anew."""
        if request.is_first:
            self._forget()
        if request.shared is not None:
            with suppress(Unreadable):
                load_shared(self._predictor, request.shared)
        read = {}
        for number, name, state in request.functions:
            with suppress(Unreadable):
                load_function(self._predictor, name, state)
                self._numbers[name] = number
                self._changed.discard(name)
                read[number] = name
        return self._learned(read, 0.0)

    def _save(self) -> Saved:
        known = self._predictor.functions
        functions = [
            (self._numbers[name], save_function(self._predictor, name))
            for name in sorted(self._changed & known.keys())
        ]
        gone = [self._numbers.pop(name) for name in self._numbers.keys() - known.keys()]
        self._changed.clear()
        return Saved(save_shared(self._predictor), functions, gone)

    def _basis(self, known: Known) -> Basis:
        return Basis(self._predictor.calls(known.name), self._predictor.error_factor(known.name))


def _range(draws: Floats) -> Range:
    low, middle, high = np.quantile(draws, (0.1, 0.5, 0.9)).tolist()
    return (low, middle, high)
