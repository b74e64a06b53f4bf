"""Who says how long a simulated call will take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.simulated_traces import Job
from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import Estimates, Predictor
from task_server.scheduling.statistics import Statistics, guess

MEDIAN, HIGH = LEVELS.tolist().index(0.5), LEVELS.tolist().index(0.9)


class Prices(Protocol):
    """Told of calls when they come, and when they have ended."""

    refines: bool
    """It is asked once more of those that wait."""

    def price(self, jobs: Sequence[Job]) -> None:
        """Write down what these will take, as far as is known now."""

    def learn(self, job: Job) -> None:
        """It has ended."""


class Truth:
    """The oracle."""

    refines = False

    def price(self, jobs: Sequence[Job]) -> None:
        """What they will take, to the microsecond."""
        for job in jobs:
            job.predicted = job.predicted_high = job.seconds

    def learn(self, job: Job) -> None:
        """It knows it all."""


class Table:
    """What submit prices from: how long calls of the same function took."""

    refines = False

    def __init__(self) -> None:
        self._known: dict[str, Statistics] = {}

    def price(self, jobs: Sequence[Job]) -> None:
        """Quantiles of the function, or a guess."""
        for job in jobs:
            known = self._known.get(job.call.function)
            price = known.price() if known else guess(None, "guess")
            job.predicted = price.p50 if known else -price.p50
            job.predicted_high = price.p90

    def learn(self, job: Job) -> None:
        """Count it."""
        name = job.call.function
        if name not in self._known:
            self._known[name] = Statistics(len(self._known), 1)
        self._known[name].count(job.seconds)


class Model:
    """The predictor, asked with the arguments when calls come and told when they have ended."""

    refines = True

    def __init__(self) -> None:
        self._predictor = Predictor()
        self._made: dict[Job, Estimates] = {}

    def price(self, jobs: Sequence[Job]) -> None:
        """Quantiles of these calls."""
        estimates = self._predictor.estimate([job.call for job in jobs])
        quantiles = estimates.quantiles()
        for index, job in enumerate(jobs):
            self._made[job] = estimates.one(index)
            median = float(quantiles[index, MEDIAN])
            job.predicted = median if self._predictor.calls(job.call.function) else -median
            job.predicted_high = float(quantiles[index, HIGH])

    def learn(self, job: Job) -> None:
        """Learn from it."""
        self._predictor.observe(job.call, job.seconds, made=self._made.pop(job))


class Told(Model):
    """Told what each call takes, but of one beyond its predicted p90 no more than that p90.

    It knows far more than any order by predictions can; what it misses, these cannot know.
    """

    def price(self, jobs: Sequence[Job]) -> None:
        """As long as they take, at most as long as predicted."""
        super().price(jobs)
        for job in jobs:
            job.predicted = job.predicted_high = min(job.seconds, job.predicted_high)
