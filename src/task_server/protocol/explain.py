"""Why a task waits, or where it is (docs/reference/wire.md, section 2)."""

from __future__ import annotations

from msgspec import Struct


class Reason(Struct):
    """One thing that keeps a task where it is."""

    code: str
    message: str


class FleetView(Struct):
    """How a waiting task stands with the workers that are heard of."""

    total: int
    free: int
    """Could have it now."""
    fit: int
    """Could have it now or later."""
    lacks: dict[str, int]
    """What the others lack, the first thing of each -> how many."""


class Before(Struct):
    """What comes first."""

    tasks: int
    """Of the same owner, or of all without fair share; 10,000 means so many or more."""
    owners: int
    """Others with waiting tasks who have had less."""


class Span(Struct):
    """Seconds, likely between these two."""

    low: float
    high: float


class Explanation(Struct):
    """Where a task is and why."""

    id: str
    state: str
    phase: str | None
    summary: str
    """All of it in one sentence, for people."""
    reasons: list[Reason]
    worker: str | None = None
    workers: FleetView | None = None
    """Of a task that waits for a worker."""
    before: Before | None = None
    expected_seconds: Span | None = None
    """Until a waiting task starts or a running one ends; null where nothing is known."""
