"""The estimator's work: a predictor, told of calls that ended and asked of others."""

from __future__ import annotations

import time

from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import Predictor
from task_server.prediction.totals import total_seconds
from task_server.server.estimator.arguments import call_of
from task_server.server.estimator.messages import (
    Ask,
    Basis,
    Known,
    Learn,
    Learned,
    Reply,
    Request,
    Sample,
    Told,
)

_SHOWN = [int(abs(LEVELS - level).argmin()) for level in (0.1, 0.5, 0.9, 0.99)]
_TOTAL = (0.1, 0.5, 0.9)


class Learner:
    """Answers requests, one after the other."""

    def __init__(self) -> None:
        self._predictor = Predictor()

    def answer(self, request: Request) -> Reply:
        """Do what is asked."""
        match request:
            case Learn():
                return self._learn(request)
            case Ask():
                return self._tell(request)

    def _learn(self, request: Learn) -> Learned:
        began = time.process_time()
        for sample in request.samples:
            self._observe(sample)
        calls = {
            sample.known.function: self._predictor.calls(sample.known.name)
            for sample in request.samples
        }
        return Learned(time.process_time() - began, calls)

    def _observe(self, sample: Sample) -> None:
        call = call_of(sample.known, sample.arguments, sample.worker)
        outcome = sample.outcome
        assert outcome in ("succeeded", "failed", "timeout")
        self._predictor.observe(call, sample.seconds, outcome=outcome)  # type: ignore[arg-type]  # one of these

    def _tell(self, request: Ask) -> Told:
        calls = [call_of(request.known[index], arguments) for index, arguments in request.calls]
        estimates = self._predictor.estimate(calls)
        low, middle, high = total_seconds(estimates, [call.function for call in calls], _TOTAL)
        return Told(
            [tuple(row) for row in estimates.quantiles()[:, _SHOWN].tolist()],
            (float(low), float(middle), float(high)),
            [self._basis(known) for known in request.known],
            len(self._predictor.functions),
        )

    def _basis(self, known: Known) -> Basis:
        return Basis(self._predictor.calls(known.name), self._predictor.error_factor(known.name))
