"""What is left of one task: until it starts, and of its run."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from task_server.protocol.explain import Explanation
from task_server.protocol.tasks import Quantiles, TaskEstimate

MOST_DONE = 0.99
"""What runs is never said to be done."""


def remaining(told: Explanation, estimate: TaskEstimate) -> Quantiles | None:
    """Seconds until it ends; None while the server cannot tell when it starts, or what is left."""
    span = told.expected_seconds
    if span is None:
        return None
    middle = math.sqrt(max(span.low, 1e-9) * max(span.high, 1e-9))
    if told.state == "running":
        return Quantiles(span.low, middle, span.high)
    # On the scale of logarithms p10 lies as far below p50 as p90 above it.
    shortest = estimate.p50**2 / max(estimate.p90, estimate.p50, 1e-9)
    return Quantiles(
        span.low + shortest, min(middle, span.high) + estimate.p50, span.high + estimate.p90
    )


def share_done(started_at: datetime | None, left: Quantiles | None) -> float:
    """How much of a run is behind it, 0 to 1."""
    if started_at is None or left is None:
        return 0.0
    passed = max((datetime.now(UTC) - started_at).total_seconds(), 0.0)
    return min(passed / max(passed + left.p50, 1e-9), MOST_DONE)
