"""T11 and T13: a task's owner ends it, or has it tried again."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store import transitions
from task_server.store.records import history
from task_server.store.records.sql import finish_now
from task_server.store.sqlite.anew import places_anew
from task_server.store.sqlite.change import (
    FullRow,
    LostUpdate,
    end_attempt,
    end_tasks,
    offer_row,
    read_row,
    read_rows,
)
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.states import State
from task_server.store.transitions import Change

LIMIT = 10_000
"""Tasks of a batch cancelled in one group."""


def cancel(group: Group, owner: int | None, task: bytes) -> int:
    """End a task that is not terminal; the status to tell."""
    row = _own(group, owner, task)
    if row is None or row.is_purged:
        return 404 if row is None else 410
    verdict = transitions.cancel(row.state)
    if verdict.change is not None:
        _cancel(group, [row], verdict.change)
    return verdict.status


def cancel_batch(group: Group, owner: int | None, batch: bytes, below: State) -> int | None:
    """Close a batch and cancel what is below a state, up to LIMIT tasks; how many it were.

    None when there is no such batch.
    """
    row = group.connection.execute(
        "SELECT batch FROM batches WHERE id = ? AND (owner = ? OR ?)",
        (batch, owner, owner is None),
    ).fetchone()
    if row is None:
        return None
    group.write_fresh()
    group.connection.execute("UPDATE batches SET is_open = 0 WHERE batch = ?", row)
    numbers = group.connection.execute(
        "SELECT number FROM tasks WHERE batch = ? AND state < ? LIMIT ?",
        (row[0], int(below), LIMIT),
    ).fetchall()
    rows = read_rows(group, (number for (number,) in numbers))
    _cancel(group, rows, Change(State.CANCELLED))
    return len(rows)


def _cancel(group: Group, rows: Sequence[FullRow], change: Change) -> None:
    for row in rows:
        if row.state is State.RUNNING:
            _stop(group, row)
    end_tasks(group, rows, change)


def retry(group: Group, owner: int | None, task: bytes) -> int:
    """Begin a new generation; the status to tell."""
    row = _own(group, owner, task)
    if row is None or row.is_purged:
        return 404 if row is None else 410
    verdict = transitions.retry(row.state)
    if verdict.change is None:
        return verdict.status
    _begin_generation(group, row)
    return verdict.status


def _own(group: Group, owner: int | None, task: bytes) -> FullRow | None:
    row = read_row(group, "id", task)
    is_theirs = row is not None and (owner is None or row.kind.spec.owner == owner)
    return row if is_theirs else None


def _stop(group: Group, row: FullRow) -> None:
    session = group.memory.sessions_by_row.get(row.session or 0)
    end_attempt(group, row, told=None, is_stopped=False)
    if session is not None and row.lease is not None:
        session.stop(row.lease.text, "cancelled")
        group.tell.append(session)


def _begin_generation(group: Group, row: FullRow) -> None:
    finish_now(history.keep(SqliteRows(group.connection), row.number))
    ((row.due_at, row.tie),) = places_anew(group, [row])
    cursor = group.connection.execute(
        "UPDATE tasks SET state = 0, secret = NULL, outcome = NULL, encoding = NULL, usage = NULL,"
        " n = NULL, ended_at = NULL, first_read = NULL, ready_at = ?, due_at = ?,"
        " tie = ?"
        # The state it was read in must still hold; attempt never falls, also across generations.
        " WHERE number = ? AND state = ? AND attempt = ?",
        (group.now, row.due_at, row.tie, row.number, int(row.state), row.attempt),
    )
    if cursor.rowcount != 1:
        raise LostUpdate(f"task {row.number} is not {row.state.word}, attempt {row.attempt}")
    # Its place among the finished is not given again: whoever reads them has passed it.
    group.keep_places()
    group.connection.execute("DELETE FROM payloads WHERE number = ? AND part = 1", (row.number,))
    group.connection.execute(
        "INSERT INTO task_extras (number, generation) VALUES (?, 1) ON CONFLICT (number) DO UPDATE"
        " SET generation = generation + 1, errors = 0, crashes = 0, undelivered = 0, releases = 0,"
        " unstarted = 0, delayed_until = NULL, start_by = NULL",
        (row.number,),
    )
    if row.batch is not None:
        word = row.state.word
        group.connection.execute(
            f"UPDATE batches SET {word} = {word} - 1 WHERE batch = ?", (row.batch,)
        )
    group.add_load(row.kind.number, 1)
    group.ask_for_lock(group.memory.requests[row.kind.spec.request])
    offer_row(group, row, crashes=0)
