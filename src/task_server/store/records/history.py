"""What tasks came to before they were retried by hand."""

from __future__ import annotations

from task_server.store.records.sql import Rows
from task_server.store.rows import PastOutcome
from task_server.store.states import Encoding, State

GENERATIONS = 100
"""Kept of one task, the newest."""


async def keep(rows: Rows, number: int) -> None:
    """T13: before a task begins a new generation."""
    await rows.execute(
        "INSERT INTO past_outcomes (number, generation, attempt, state, encoding, outcome,"
        " started_at, ended_at)"
        " SELECT t.number, coalesce(x.generation, 0), t.attempt, t.state, t.encoding,"
        " coalesce(t.outcome, p.data), t.started_at, t.ended_at"
        " FROM tasks t LEFT JOIN task_extras x ON x.number = t.number"
        " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
        " WHERE t.number = ?",
        number,
    )
    await rows.execute(
        "DELETE FROM past_outcomes WHERE number = ? AND generation <="
        " (SELECT generation FROM task_extras WHERE number = ?) - ?",
        number,
        number,
        GENERATIONS,
    )


async def listed(rows: Rows, number: int) -> list[PastOutcome]:
    """Of a task, first generation first."""
    found = await rows.fetch(
        "SELECT generation, attempt, state, encoding, outcome, started_at, ended_at"
        " FROM past_outcomes WHERE number = ? ORDER BY generation",
        number,
    )
    return [
        PastOutcome(
            generation,
            attempt,
            State(state),
            None if encoding is None else Encoding(encoding),
            outcome,
            started_at,
            ended_at,
        )
        for generation, attempt, state, encoding, outcome, started_at, ended_at in found
    ]
