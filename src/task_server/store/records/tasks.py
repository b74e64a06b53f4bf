"""Tasks as their owners see them."""

from __future__ import annotations

from typing import Any

import msgspec

from task_server.store.attempts import Used
from task_server.store.kinds import KindSpec
from task_server.store.records.sql import Rows, first
from task_server.store.rows import TaskFilter, TaskRow
from task_server.store.states import Encoding, State

_TASK = (
    "SELECT t.number, t.id, b.id, k.spec, t.state, t.submitted_at, t.predicted, t.predicted_high,"
    " t.attempt, coalesce(x.generation, 0), w.name, t.started_at, t.ended_at, t.encoding,"
    " coalesce(t.outcome, p.data), t.usage, r.environment, r.state,"
    " coalesce(x.pending, 0), r.error, x.limit_seconds, x.limit_why"
    " FROM tasks t JOIN kinds k USING (kind) JOIN lanes l ON l.lane = t.lane"
    " JOIN environment_requests r USING (request)"
    " LEFT JOIN batches b ON b.batch = t.batch LEFT JOIN task_extras x ON x.number = t.number"
    " LEFT JOIN sessions s ON s.session = t.session LEFT JOIN workers w ON w.worker = s.worker"
    " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
)


_KEPT = f"(t.encoding IS NULL OR t.encoding <> {int(Encoding.PURGED)})"


async def find(rows: Rows, identifier: bytes, owner: int | None) -> TaskRow | None:
    """The task, if this owner (None: anybody) may see it."""
    row = await first(
        rows,
        f"{_TASK} WHERE t.id = ? AND {_KEPT} AND (k.owner = ? OR ?)",
        identifier,
        owner,
        owner is None,
    )
    return None if row is None else _task(row)


async def listed(rows: Rows, wanted: TaskFilter) -> list[TaskRow]:
    """A page of tasks, newest first."""
    where, values = await _conditions(rows, wanted)
    found = await rows.fetch(
        f"{_TASK} WHERE {' AND '.join(where)} ORDER BY t.number DESC LIMIT ?", *values, wanted.limit
    )
    return [_task(row) for row in found]


async def _conditions(rows: Rows, wanted: TaskFilter) -> tuple[list[str], list[object]]:
    given: list[tuple[str, object]] = [
        ("k.owner = ?", wanted.owner),
        ("t.state = ?", None if wanted.state is None else int(wanted.state)),
        ("t.batch = (SELECT batch FROM batches WHERE id = ?)", wanted.batch),
        ("t.number < ?", wanted.before),
    ]
    where = [sql for sql, value in given if value is not None]
    values = [value for _, value in given if value is not None]
    if wanted.function is not None or wanted.tag is not None:
        kinds = await _kinds(rows, wanted)
        where.append(f"t.kind IN ({', '.join(map(str, kinds)) or 'NULL'})")
    return [*where, _KEPT], values


async def _kinds(rows: Rows, wanted: TaskFilter) -> list[int]:
    found = await rows.fetch(
        "SELECT kind, spec FROM kinds WHERE owner = ? OR ?", wanted.owner, wanted.owner is None
    )
    specs = [(int(kind), msgspec.msgpack.decode(spec, type=KindSpec)) for kind, spec in found]
    return [
        kind
        for kind, spec in specs
        if (wanted.function is None or _is_named(spec, wanted.function))
        and (wanted.tag is None or wanted.tag in spec.tags)
    ]


def _is_named(spec: KindSpec, function: str) -> bool:
    return function in (spec.function, f"{spec.module}:{spec.function}")


def _task(row: tuple[Any, ...]) -> TaskRow:
    values = list(row)
    values[3] = msgspec.msgpack.decode(values[3], type=KindSpec)
    values[4] = State(values[4])
    values[13] = None if values[13] is None else Encoding(values[13])
    values[15] = None if values[15] is None else msgspec.msgpack.decode(values[15], type=Used)
    return TaskRow(*values)


async def logs(rows: Rows, number: int) -> list[tuple[int, bytes]]:
    """What a task's attempts printed: (attempt, log), first attempt first."""
    found = await rows.fetch(
        "SELECT attempt, log FROM logs WHERE number = ? ORDER BY attempt", number
    )
    return [(attempt, log) for attempt, log in found]
