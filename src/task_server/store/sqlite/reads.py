"""Reads, on a reader's connection: what is committed, never a long transaction."""

from __future__ import annotations

import sqlite3

import msgspec

from task_server.store.contract import KindSpec, Used
from task_server.store.rows import AnswerRow, BatchRow, TaskFilter, TaskRow
from task_server.store.sqlite.group import encoding_of
from task_server.store.states import State

_TASK = (
    "SELECT t.number, t.id, b.id, k.spec, t.state, t.submitted_at, t.predicted, t.predicted_high,"
    " t.attempt, ifnull(x.generation, 0), w.name, t.started_at, t.ended_at, t.encoding,"
    " ifnull(t.outcome, p.data), t.usage, r.environment, r.state"
    " FROM tasks t JOIN kinds k USING (kind) JOIN lanes l ON l.lane = t.lane"
    " JOIN environment_requests r USING (request)"
    " LEFT JOIN batches b ON b.batch = t.batch LEFT JOIN task_extras x ON x.number = t.number"
    " LEFT JOIN sessions s ON s.session = t.session LEFT JOIN workers w ON w.worker = s.worker"
    " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
)
_ANSWER = (
    "SELECT t.position, t.id, t.state, t.n, t.encoding, ifnull(t.outcome, p.data) FROM tasks t"
    " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
)


def task(connection: sqlite3.Connection, identifier: bytes, owner: int | None) -> TaskRow | None:
    """The task, if this owner (None: anybody) may see it."""
    row = connection.execute(
        f"{_TASK} WHERE t.id = ? AND (k.owner = ? OR ?)", (identifier, owner, owner is None)
    ).fetchone()
    return None if row is None else _task_row(row)


def tasks(connection: sqlite3.Connection, wanted: TaskFilter) -> list[TaskRow]:
    """A page of tasks, newest first."""
    where, values = _conditions(connection, wanted)
    rows = connection.execute(
        f"{_TASK} WHERE {' AND '.join(where)} ORDER BY t.number DESC LIMIT ?",
        (*values, wanted.limit),
    ).fetchall()
    return [_task_row(row) for row in rows]


def _conditions(
    connection: sqlite3.Connection, wanted: TaskFilter
) -> tuple[list[str], list[object]]:
    given: list[tuple[str, object]] = [
        ("k.owner = ?", wanted.owner),
        ("t.state = ?", None if wanted.state is None else int(wanted.state)),
        ("t.batch = (SELECT batch FROM batches WHERE id = ?)", wanted.batch),
        ("t.number < ?", wanted.before),
    ]
    where = [sql for sql, value in given if value is not None]
    values = [value for _, value in given if value is not None]
    if wanted.function is not None or wanted.tag is not None:
        where.append("t.kind IN (SELECT value FROM json_each(?))")
        values.append(msgspec.json.encode(_kinds(connection, wanted)).decode())
    return where or ["1"], values


def _kinds(connection: sqlite3.Connection, wanted: TaskFilter) -> list[int]:
    rows = connection.execute(
        "SELECT kind, spec FROM kinds WHERE owner = ? OR ?", (wanted.owner, wanted.owner is None)
    )
    specs = [(kind, msgspec.msgpack.decode(spec, type=KindSpec)) for kind, spec in rows]
    return [
        kind
        for kind, spec in specs
        if (wanted.function is None or _is_named(spec, wanted.function))
        and (wanted.tag is None or wanted.tag in spec.tags)
    ]


def _is_named(spec: KindSpec, function: str) -> bool:
    return function in (spec.function, f"{spec.module}:{spec.function}")


def _task_row(row: tuple) -> TaskRow:  # type: ignore[type-arg]  # a database row
    values = list(row)
    values[3] = msgspec.msgpack.decode(values[3], type=KindSpec)
    values[4] = State(values[4])
    values[13] = encoding_of(values[13])
    values[15] = None if values[15] is None else msgspec.msgpack.decode(values[15], type=Used)
    return TaskRow(*values)


def _answer_row(row: tuple) -> AnswerRow:  # type: ignore[type-arg]  # a database row
    position, identifier, state, n, encoding, outcome = row
    return AnswerRow(position, identifier, State(state), n, encoding_of(encoding), outcome)


def answers_in_order(
    connection: sqlite3.Connection, batch: int, start: int, limit: int
) -> list[AnswerRow]:
    """Members of a batch that have ended, from position `start` on, by position."""
    rows = connection.execute(
        f"{_ANSWER} WHERE t.batch = ? AND t.position >= ? AND t.n IS NOT NULL"
        " ORDER BY t.position LIMIT ?",
        (batch, start, limit),
    )
    return [_answer_row(row) for row in rows]


def answers_as_ended(
    connection: sqlite3.Connection, batch: int, after: int, limit: int
) -> list[AnswerRow]:
    """Members of a batch that ended after place `after`, in the order they ended."""
    rows = connection.execute(
        f"{_ANSWER} WHERE t.batch = ? AND t.n > ? ORDER BY t.n LIMIT ?", (batch, after, limit)
    )
    return [_answer_row(row) for row in rows]


def batch(connection: sqlite3.Connection, identifier: bytes, owner: int | None) -> BatchRow | None:
    """The batch, if this owner (None: anybody) may see it."""
    row = connection.execute(
        "SELECT batch, id, owner, name, is_open, expected, total, succeeded, failed, cancelled,"
        " expired FROM batches WHERE id = ? AND (owner = ? OR ?)",
        (identifier, owner, owner is None),
    ).fetchone()
    if row is None:
        return None
    found = BatchRow(*row)
    found.is_open = bool(found.is_open)
    found.running = connection.execute(
        "SELECT count(*) FROM tasks INDEXED BY tasks_running WHERE state = 2 AND batch = ?",
        (found.batch,),
    ).fetchone()[0]
    found.delayed = connection.execute(
        "SELECT count(*) FROM task_extras x JOIN tasks t USING (number)"
        " WHERE x.delayed_until IS NOT NULL AND t.state = 1 AND t.batch = ?",
        (found.batch,),
    ).fetchone()[0]
    return found


def batch_kinds(connection: sqlite3.Connection, batch: int) -> dict[int, int]:
    """How many open tasks of each kind a batch has."""
    rows = connection.execute(
        "SELECT kind, count(*) FROM tasks WHERE batch = ? AND state < 3 GROUP BY kind", (batch,)
    )
    return dict(rows.fetchall())


def logs(connection: sqlite3.Connection, number: int) -> list[tuple[int, bytes]]:
    """What a task's attempts printed: (attempt, log), first attempt first."""
    rows = connection.execute(
        "SELECT attempt, log FROM logs WHERE number = ? ORDER BY attempt", (number,)
    )
    return rows.fetchall()


def environment(connection: sqlite3.Connection, digest: str) -> tuple[str, str, float] | None:
    """Python, lock and moment of an environment."""
    row: tuple[str, str, float] | None = connection.execute(
        "SELECT python, lock, created_at FROM environments WHERE environment = ?", (digest,)
    ).fetchone()
    return row


def open_requests(connection: sqlite3.Connection, now: float) -> list[tuple[str, str, int]]:
    """Environment requests to lock now: text, Python, tries so far."""
    rows = connection.execute(
        "SELECT text, python, tries FROM environment_requests WHERE state = 0 AND try_at <= ?"
        " ORDER BY request LIMIT 100",
        (now,),
    )
    return rows.fetchall()
