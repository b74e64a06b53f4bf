"""Order: the key by which the tasks of a lane start (docs/explanation/scheduling.md)."""

from __future__ import annotations

from math import frexp, ldexp

from msgspec import Struct

AGEING = 10.0
"""How many times its own run time a task may be passed by shorter ones that come later."""
LONGEST_SECONDS = 3600.0
"""No task is passed for longer."""
UNKNOWN_SECONDS = 1e9
"""Members of a batch of which nothing is known start as if they took that much longer: what they
take is soon known of those that wait, and one that takes long has begun early."""

Place = tuple[float, float]
"""`due_at` and `tie`: the least starts first, and of those that are equal who came first."""


class InBatch(Struct, frozen=True):
    """What the members of a batch have in common."""

    due_at: float
    in_order: bool = False
    """They start as they were submitted."""


def rounded_up(seconds: float) -> float:
    """To a power of two: estimates that hardly differ leave tasks in the order they came in."""
    if seconds <= 0.0:
        return 0.0
    mantissa, exponent = frexp(seconds)
    return ldexp(0.5 if mantissa == 0.5 else 1.0, exponent)


def patience(seconds: float) -> float:
    """For how long work of so many predicted seconds lets shorter work pass."""
    return min(AGEING * rounded_up(min(seconds, LONGEST_SECONDS)), LONGEST_SECONDS)


def place(
    ready_at: float,
    *,
    predicted: float,
    predicted_high: float,
    finish_by: float | None = None,
    batch: InBatch | None = None,
    by_prediction: bool = True,
) -> Place:
    """Where a task that became ready at `ready_at` stands in its lane.

    `predicted`: its p50 in seconds, negative for a guess; `predicted_high`: its p90; `finish_by`:
    when its owner wants it done, `ready_at` in Unix seconds, too. Never before `ready_at`, so
    nothing that comes later than a task's patience passes it. Without `by_prediction` tasks start
    as they became ready.
    """
    if not by_prediction:
        return ready_at, 0.0
    if batch is None:
        due_at, tie = ready_at + patience(abs(predicted)), 0.0
    else:
        due_at = max(batch.due_at, ready_at)
        tie = 0.0 if batch.in_order else -_length(predicted, predicted_high)
    if finish_by is not None and not (batch and batch.in_order):
        due_at = min(due_at, max(finish_by - predicted_high, ready_at))
    return due_at, tie


def _length(predicted: float, predicted_high: float) -> float:
    """What is long begins early, of a batch."""
    return predicted_high + UNKNOWN_SECONDS if predicted < 0.0 else predicted_high


def batch_due_at(
    ready_at: float,
    *,
    seconds: float,
    slots: int,
    finish_by: float | None = None,
    before: float | None = None,
) -> float:
    """When the members of a batch are due that are submitted at `ready_at`.

    `seconds`: predicted of all of it; `slots`: that work on it; `finish_by`: when a batch that
    starts in submit order is wanted; `before`: when its earlier members are due, which go first.
    """
    alone = seconds / max(slots, 1)
    due_at = ready_at + patience(alone)
    if finish_by is not None:
        due_at = min(due_at, max(finish_by - alone, ready_at))
    return due_at if before is None else max(due_at, before)
