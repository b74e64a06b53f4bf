"""What decides when a task starts, and what the workers have, as the database has it."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from task_server.store.kinds import KindSpec
from task_server.store.records.sql import Rows, first

MOST = 10_000
"""Further tasks are not counted."""
NAMED = 10
"""So many of the tasks that it waits for are named."""


class Place(Struct):
    """A task's place. Times are Unix seconds."""

    priority: int
    delayed_until: float | None
    run_after: float | None
    start_by: float | None
    errors: int
    crashes: int
    before: int
    """Queued tasks that come first, of its owner or of all, up to MOST."""
    after: list[bytes]
    """Some of the tasks that it waits for."""


_PLACE = (
    "SELECT l.owner, t.due_at, t.tie, l.priority, x.delayed_until, x.run_after, x.start_by,"
    " coalesce(x.errors, 0), coalesce(x.crashes, 0)"
    " FROM tasks t JOIN lanes l ON l.lane = t.lane"
    " LEFT JOIN task_extras x ON x.number = t.number WHERE t.number = ?"
)
_BEFORE = (
    "SELECT count(*) FROM (SELECT 1 FROM lanes l JOIN tasks t ON t.lane = l.lane AND t.state = 0"
    " WHERE (? OR l.owner = ?) AND (l.priority > ? OR (l.priority = ?"
    " AND (t.due_at, t.tie, t.number) < (?, ?, ?))) LIMIT ?) b"
)
_AFTER = (
    "SELECT t.id FROM dependencies d JOIN tasks t ON t.number = d.after WHERE d.task = ?"
    " ORDER BY t.number LIMIT ?"
)


async def place(rows: Rows, number: int, *, among_all: bool) -> Place | None:
    """Where a task stands among its owner's, or `among_all`; None when it is gone."""
    row = await first(rows, _PLACE, number)
    if row is None:
        return None
    owner, due_at, tie, priority = row[:4]
    key = (among_all, owner, priority, priority, due_at, tie, number)
    counted = await first(rows, _BEFORE, *key, MOST)
    after = await rows.fetch(_AFTER, number, NAMED)
    assert counted is not None
    values = (*row[3:], counted[0], [task for (task,) in after])
    return Place(*values)


async def held(rows: Rows) -> list[tuple[int, KindSpec, float]]:
    """Worker, kind and start of what runs, as far as MOST."""
    found = await rows.fetch(
        "SELECT s.worker, k.spec, t.started_at FROM tasks t"
        " JOIN sessions s ON s.session = t.session JOIN kinds k ON k.kind = t.kind"
        " WHERE t.state = 2 LIMIT ?",
        MOST,
    )
    specs = {
        data: msgspec.msgpack.decode(data, type=KindSpec) for data in {row[1] for row in found}
    }
    return [(worker, specs[data], started_at) for worker, data, started_at in found]


async def broken(rows: Rows, environment: str, *, now: float) -> set[int]:
    """The workers that could not build an environment of late."""
    found = await rows.fetch(
        "SELECT worker FROM worker_environments WHERE environment = ? AND broken_until > ?",
        environment,
        now,
    )
    return {worker for (worker,) in found}
