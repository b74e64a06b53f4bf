"""`task_server.prediction` with the interface of a prequential score: predict, then observe."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import Call, Estimates, Predictor
from task_server.prediction.totals import total_seconds

Row = tuple[str, Sequence[object], Mapping[str, object], str | None, Mapping[str, str] | None]


class Scored:
    """A predictor that keeps each estimate with its call until the call has ended."""

    def __init__(self) -> None:
        self._predictor = Predictor()
        self._made: dict[str, deque[Estimates]] = defaultdict(deque)

    def predict(
        self,
        function: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        worker: str | None,
        versions: Mapping[str, str] | None = None,
        quantiles: Sequence[float] = (),
    ) -> dict[float, float]:
        """Quantile -> seconds of the next call."""
        call = Call(function, args, kwargs, worker, versions)
        made = self._predictor.estimate([call])
        self._made[function].append(made)
        return dict(zip(LEVELS.tolist(), made.quantiles()[0].tolist(), strict=True))

    def observe(
        self,
        function: str,
        args: Sequence[object],
        kwargs: Mapping[str, object],
        worker: str | None,
        runtime: float,
        versions: Mapping[str, str] | None = None,
        status: str = "ok",
    ) -> None:
        """The oldest call of the function that has not ended took so long."""
        call = Call(function, args, kwargs, worker, versions)
        self._predictor.observe(call, runtime, made=self._made[function].popleft())

    def predict_sum(self, calls: Sequence[Row], quantiles: Sequence[float]) -> dict[float, float]:
        """Quantile -> seconds of all calls together."""
        estimates = self._predictor.estimate([Call(*call) for call in calls])
        found = total_seconds(estimates, [call[0] for call in calls], quantiles)
        return dict(zip(quantiles, found.tolist(), strict=True))
