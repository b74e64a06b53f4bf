"""Reading tasks and writing what became of them, by compare and set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from task_server.store import transitions
from task_server.store.attempts import AttemptReport, LeaseKey
from task_server.store.kinds import Kind, KindSpec
from task_server.store.outcomes import in_row, outcome_of
from task_server.store.rows import Ended
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.sqlite.memory import SERVER, Queued
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change


class FullRow(Struct):
    """A task with its extras."""

    number: int
    id: bytes
    kind: Kind
    batch: int | None
    position: int | None
    state: State
    submitted_at: float
    due_at: float
    tie: float
    predicted: float
    predicted_high: float
    attempt: int
    session: int | None
    reply: int | None
    secret: bytes | None
    started_at: float | None
    encoding: Encoding | None
    outcome: bytes | None
    generation: int
    errors: int
    crashes: int
    undelivered: int
    releases: int
    unstarted: int
    withdrawn_attempt: int | None

    @property
    def is_purged(self) -> bool:
        """Arguments and outcome are no longer kept."""
        return self.encoding is Encoding.PURGED

    @property
    def lease(self) -> LeaseKey | None:
        """The present lease, or the one that ended the task; None when neither."""
        return None if self.secret is None else LeaseKey(self.number, self.attempt, self.secret)

    @property
    def is_withdrawn(self) -> bool:
        """Its attempt was with a worker when the unstarted tasks of its batch were cancelled."""
        return self.withdrawn_attempt == self.attempt

    def as_row(self) -> transitions.Row:
        """What the rules need of it."""
        spec = self.kind.spec
        return transitions.Row(
            number=self.number,
            state=self.state,
            generation=self.generation,
            attempt=self.attempt,
            errors=self.errors,
            crashes=self.crashes,
            undelivered=self.undelivered,
            releases=self.releases,
            unstarted=self.unstarted,
            max_attempts=spec.max_attempts,
            at_most_once=spec.at_most_once,
            retry_on=self.kind.retry_on,
            backoff=spec.backoff,
        )


class LostUpdate(RuntimeError):
    """A row was not as the memory had it: the group is undone and the memory read again."""


_READ = (
    "SELECT t.number, t.id, t.kind, t.batch, t.position, t.state, t.submitted_at, t.due_at, t.tie,"
    " t.predicted, t.predicted_high, t.attempt, t.session, t.reply, t.secret, t.started_at,"
    " t.encoding, ifnull(t.outcome, p.data), ifnull(x.generation, 0), ifnull(x.errors, 0),"
    " ifnull(x.crashes, 0), ifnull(x.undelivered, 0), ifnull(x.releases, 0),"
    " ifnull(x.unstarted, 0), x.withdrawn_attempt"
    " FROM tasks t LEFT JOIN task_extras x USING (number)"
    " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
    " WHERE t."
)


def read_row(group: Group, column: str, value: object) -> FullRow | None:
    """The task with that `number` or `id`; what this group submitted is seen too."""
    group.write_fresh()
    row = group.connection.execute(f"{_READ}{column} = ?", (value,)).fetchone()
    return None if row is None else _full(group, row)


def read_rows(group: Group, numbers: Iterable[int]) -> list[FullRow]:
    """The tasks of those numbers that there are, in ascending order."""
    group.write_fresh()
    rows = select_in(group.connection, f"{_READ}number IN ({{rows}})", sorted(numbers))
    return [_full(group, row) for row in rows]


def _full(group: Group, row: Sequence[Any]) -> FullRow:
    values = list(row)
    values[2] = group.memory.kind_numbered(values[2])
    values[5] = State(values[5])
    values[16] = None if values[16] is None else Encoding(values[16])
    return FullRow(*values)


def end_attempt(
    group: Group, row: FullRow, *, told: tuple[bool, bytes] | None, is_stopped: bool
) -> None:
    """The running attempt ends without ending its task as its winner: remember it as issued.

    `is_stopped`: its worker does not know yet, and is told at its next exchange.
    """
    assert row.lease is not None and row.session is not None
    session = group.memory.sessions_by_row.get(row.session)
    if session is not None:
        running = session.leases.pop(row.number, None)
        if is_stopped and running is not None:
            session.stop(row.lease.text, "gone")
            group.tell.append(session)
    group.connection.execute(
        "INSERT OR IGNORE INTO past_attempts (lease, task, worker, session, attempt, generation,"
        " outcome_ok, outcome_digest)"
        " VALUES (?, ?, (SELECT worker FROM sessions WHERE session = ?), ?, ?, ?, ?, ?)",
        (
            row.secret,
            row.number,
            row.session,
            row.session,
            row.attempt,
            row.generation,
            told[0] if told else None,
            told[1] if told else None,
        ),
    )


def change_kind(group: Group, row: FullRow, spec: KindSpec) -> None:
    """A task that does not wait becomes one of another kind: its lane is another, maybe."""
    kind = group.memory.kind(spec)
    if kind.number == row.kind.number:
        return
    group.connection.execute(
        "UPDATE tasks SET kind = ?, lane = ? WHERE number = ?", (kind.number, kind.lane, row.number)
    )
    group.move(row.kind, kind)
    row.kind = kind


def settle(group: Group, row: FullRow, *, seconds: float) -> None:
    """An attempt took `seconds`, not what its owner was charged at the lease."""
    owner = row.kind.spec.owner
    group.memory.shares.settle(owner, predicted=abs(row.predicted), seconds=seconds)


def write_change(
    group: Group, row: FullRow, change: Change, *, report: AttemptReport | None = None
) -> None:
    """Write what `transitions` decided. Every attempt that ran has been ended before."""
    if change.state.is_terminal:
        end_tasks(group, [row], change, report=report)
    else:
        _wait(group, row, change)
    has_counts = any(
        (change.errors, change.crashes, change.undelivered, change.releases, change.unstarted)
    )
    if has_counts or change.state is State.DELAYED:
        _write_extras(group, row, change)


_END = (
    # Without a secret the row claims no winner: all its attempts stand in past_attempts.
    "UPDATE tasks SET state = w.column4, secret = NULL, outcome = w.column5, encoding = w.column6,"
    " usage = w.column7, n = w.column8, ended_at = w.column9"
    " FROM (VALUES {rows}) AS w WHERE tasks.number = w.column1"
    # A row that changed since it was read is left alone: its new state has another writer.
    " AND tasks.state = w.column2 AND tasks.attempt = w.column3"
)


def end_tasks(
    group: Group, rows: Sequence[FullRow], change: Change, *, report: AttemptReport | None = None
) -> None:
    """End tasks, all in the same way. Every attempt that ran has been ended before."""
    encoding, outcome = outcome_of(change, report)
    usage = msgspec.msgpack.encode(report.used) if report and report.used else None
    inline = in_row(outcome)
    ending = (int(change.state), inline, None if encoding is None else int(encoding), usage)
    first_n = group.memory.next_n
    values = [
        (row.number, int(row.state), row.attempt, *ending, n, _ended_at(group, row))
        for n, row in enumerate(rows, first_n)
    ]
    if write_many(group.connection, _END, values) != len(rows):
        raise LostUpdate("a task was not as it had been read")
    group.memory.next_n = first_n + len(rows)
    if outcome is not None and inline is None:
        group.write_outcomes([(row.number, outcome) for row in rows])
    _leave_queue(group, rows)
    for n, row in enumerate(rows, first_n):
        group.count_end(row.batch, change.state)
        group.ended.append(_ended(row, change.state, n, encoding, outcome))


def _ended_at(group: Group, row: FullRow) -> float:
    """Not before it came or began, though the clock may have been set back."""
    return max(group.now, row.submitted_at, row.started_at or 0.0)


def _ended(
    row: FullRow, state: State, n: int, encoding: Encoding | None, outcome: bytes | None
) -> Ended:
    owner = row.kind.spec.owner
    position = row.position if row.position is not None else -1
    return Ended(
        row.number, row.id, owner, row.batch, position, state, SERVER, n, encoding, outcome
    )


def _leave_queue(group: Group, rows: Sequence[FullRow]) -> None:
    waiting = [row for row in rows if row.state in (State.QUEUED, State.DELAYED)]
    for kind, count in Counter(row.kind.number for row in waiting).items():
        group.add_load(kind, -count)
    for row in waiting:
        group.memory.lanes[row.kind.lane].window.remove((row.due_at, row.tie, row.number))
    write_many(
        group.connection,
        "UPDATE task_extras SET delayed_until = NULL, start_by = NULL, leased_until = NULL,"
        " pending = 0 FROM (VALUES {rows}) AS w WHERE task_extras.number = w.column1",
        [(row.number,) for row in rows],
    )
    if group.memory.awaited:
        write_many(
            group.connection,
            "DELETE FROM dependencies WHERE task IN (VALUES {rows})",
            [(row.number,) for row in waiting],
        )


def _wait(group: Group, row: FullRow, change: Change) -> None:
    """A running task is queued or delayed again."""
    cursor = group.connection.execute(
        "UPDATE tasks SET state = ?, secret = NULL"
        # Only the attempt that was read: a newer one is not this writer's.
        " WHERE number = ? AND state = ? AND attempt = ?",
        (int(change.state), row.number, int(row.state), row.attempt),
    )
    if cursor.rowcount != 1:
        raise LostUpdate(f"task {row.number} is not {row.state.word}, attempt {row.attempt}")
    group.add_load(row.kind.number, 1)
    if change.state is State.QUEUED:
        offer_row(group, row, crashes=change.crashes)


def offer_row(group: Group, row: FullRow, *, crashes: int) -> None:
    """A stored task is queued again: let its lane know."""
    group.offer(
        Queued(
            number=row.number,
            due_at=row.due_at,
            tie=row.tie,
            crashes=crashes,
            predicted=row.predicted,
            size=65536,
            statistics=group.memory.statistics_of(row.kind),
            id=row.id,
            kind=row.kind,
            batch=row.batch,
            position=row.position,
            submitted_at=row.submitted_at,
            predicted_high=row.predicted_high,
            attempt=row.attempt,
            payload=None,
        )
    )


def _write_extras(group: Group, row: FullRow, change: Change) -> None:
    until = group.now + change.wait_seconds if change.state is State.DELAYED else None
    group.connection.execute(
        "INSERT INTO task_extras (number, delayed_until, errors, crashes, undelivered, releases,"
        " unstarted) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (number) DO UPDATE SET"
        " delayed_until = excluded.delayed_until, errors = excluded.errors,"
        " crashes = excluded.crashes, undelivered = excluded.undelivered,"
        " releases = excluded.releases, unstarted = excluded.unstarted, leased_until = NULL",
        (
            row.number,
            until,
            change.errors,
            change.crashes,
            change.undelivered,
            change.releases,
            change.unstarted,
        ),
    )
