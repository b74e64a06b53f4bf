"""Lanes and candidates to schedule in tests."""

from __future__ import annotations

from typing import Any

from task_server.scheduling.lanes import Candidate, Lane, Window
from task_server.scheduling.statistics import Statistics

UNKNOWN = Statistics(1, 1)


def short(seconds: float = 0.000_01) -> Statistics:
    """A function known by a hundred calls."""
    known = Statistics(2, 1)
    for _ in range(100):
        known.count(seconds)
    known.settle()
    return known


def candidate(number: int, **options: Any) -> Candidate:
    """A queued task, due at its number."""
    fields: dict[str, Any] = {
        "due_at": float(number),
        "tie": 0.0,
        "crashes": 0,
        "predicted": 1.0,
        "size": 10,
        "statistics": UNKNOWN,
    }
    return Candidate(number=number, **{**fields, **options})


def lane(number: int, *candidates: Candidate, **options: Any) -> Lane[Candidate]:
    """A lane with these tasks queued."""
    fields: dict[str, Any] = {
        "owner": 1,
        "priority": 0,
        "python": "3.11",
        "plain": True,
        "sandbox": 0,
        "request": 1,
        "environment": "e",
    }
    made: Lane[Candidate] = Lane(number, window=Window(is_complete=True), **{**fields, **options})
    for each in candidates:
        made.window.offer(each)
    return made
