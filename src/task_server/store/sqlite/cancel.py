"""T11 and T13: a task's owner ends it, or has it tried again."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store import transitions
from task_server.store.records import history
from task_server.store.records.sql import finish_now
from task_server.store.sessions import UNSTARTED
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
from task_server.store.sqlite.many import write_many
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


def cancel_batch(
    group: Group, owner: int | None, batch: bytes, *, unstarted: bool, after: int
) -> tuple[int, int | None] | None:
    """Close a batch and cancel what is open of it, up to LIMIT tasks with higher numbers.

    How many it were, and the last number if there may be more; None when there is no such batch.
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
        "SELECT number FROM tasks WHERE batch = ? AND state < 3 AND +number > ?"
        " ORDER BY +number LIMIT ?",
        (row[0], after, LIMIT),
    ).fetchall()
    rows = read_rows(group, (number for (number,) in numbers))
    ending = [row for row in rows if not unstarted or row.state is not State.RUNNING]
    _cancel(group, ending, Change(State.CANCELLED))
    if unstarted:
        _withdraw(group, [row for row in rows if row.state is State.RUNNING])
    return len(ending), rows[-1].number if len(rows) == LIMIT else None


def _withdraw(group: Group, rows: Sequence[FullRow]) -> None:
    """Ask for leases of tasks that may not have started: given back, these end."""
    write_many(
        group.connection,
        "INSERT INTO task_extras (number, withdrawn_attempt) VALUES {rows}"
        " ON CONFLICT (number) DO UPDATE SET withdrawn_attempt = excluded.withdrawn_attempt",
        [(row.number, row.attempt) for row in rows],
    )
    for row in rows:
        _tell(group, row, UNSTARTED)


def _cancel(group: Group, rows: Sequence[FullRow], change: Change) -> None:
    for row in rows:
        if row.state is State.RUNNING:
            end_attempt(group, row, told=None, is_stopped=False)
            _tell(group, row, "cancelled")
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


def _tell(group: Group, row: FullRow, why: str) -> None:
    session = group.memory.sessions_by_row.get(row.session or 0)
    if session is not None and row.lease is not None:
        session.stop(row.lease.text, why)
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
