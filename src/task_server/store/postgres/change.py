"""Reading tasks under their locks, and writing what became of them, many at once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from task_server.store import transitions
from task_server.store.attempts import AttemptReport, LeaseKey
from task_server.store.kinds import Kind, KindSpec
from task_server.store.outcomes import in_row, outcome_of
from task_server.store.postgres.group import Again, Group
from task_server.store.postgres.known import columns, know_kinds
from task_server.store.rows import Ended
from task_server.store.sessions import UNSTARTED
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change

RUNNING_PHASE = 2
PHASES = ("leased", "installing", "running")


class FullRow(Struct):
    """A task with its extras, and the session of its last lease."""

    number: int
    id: bytes
    kind: Kind
    batch: int | None
    position: int | None
    state: State
    submitted_at: float
    due_at: float
    predicted: float
    predicted_high: float
    attempt: int
    session: int | None
    reply: int | None
    secret: bytes | None
    started_at: float | None
    n: int | None
    server: int
    phase: int
    encoding: Encoding | None
    outcome: bytes | None
    generation: int
    errors: int
    crashes: int
    undelivered: int
    releases: int
    unstarted: int
    withdrawn_attempt: int | None
    pending: int
    worker: int | None
    is_plain: int | None
    is_over: int | None
    alive_until: float | None
    seen: int | None

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


# First the locks, in ascending order; then, by a later statement, what has been true under them.
_LOCK = "SELECT number FROM tasks WHERE {} ORDER BY number + 0 FOR UPDATE"
_READ = """
SELECT t.number, t.id, t.kind, t.batch, t.position, t.state, t.submitted_at, t.due_at, t.predicted,
       t.predicted_high, t.attempt, t.session, t.reply, t.secret, t.started_at, t.n, t.server,
       t.phase, t.encoding, coalesce(t.outcome, p.data), coalesce(x.generation, 0),
       coalesce(x.errors, 0), coalesce(x.crashes, 0), coalesce(x.undelivered, 0),
       coalesce(x.releases, 0), coalesce(x.unstarted, 0), x.withdrawn_attempt,
       coalesce(x.pending, 0), s.worker, s.is_plain, s.is_over, s.alive_until, s.seen
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number
  LEFT JOIN task_extras x ON x.number = t.number
  LEFT JOIN sessions s ON s.session = t.session
  LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL
 ORDER BY t.number"""


async def lock_numbers(group: Group, numbers: Collection[int]) -> list[int]:
    """Lock the tasks of those numbers; gives those that there are, ascending."""
    if not numbers:
        return []
    rows = await group.fetch(_LOCK.format("number = ANY($1::bigint[])"), list(numbers))
    return [number for (number,) in rows]


async def lock_ids(group: Group, ids: Collection[bytes]) -> list[int]:
    """Lock the tasks of those ids; gives their numbers, ascending."""
    rows = await group.fetch(_LOCK.format("id = ANY($1::bytea[])"), list(ids))
    return [number for (number,) in rows]


async def read_locked(group: Group, numbers: Sequence[int]) -> list[FullRow]:
    """Locked tasks as they are, ascending."""
    if not numbers:
        return []
    rows = await group.fetch(_READ, list(numbers))
    await know_kinds(group.connection, group.memory, {row[2] for row in rows})
    return [_full(group, row) for row in rows]


def _full(group: Group, row: Sequence[Any]) -> FullRow:
    values = list(row)
    values[2] = group.memory.kinds[values[2]]
    values[5] = State(values[5])
    values[18] = None if values[18] is None else Encoding(values[18])
    return FullRow(*values)


_PAST = """
INSERT INTO past_attempts
  (lease, task, worker, session, attempt, generation, outcome_ok, outcome_digest)
SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::int[], $4::bigint[], $5::int[], $6::int[],
                     $7::bool[], $8::bytea[])
ON CONFLICT (lease) DO NOTHING"""
_TOLD = """
UPDATE past_attempts p SET outcome_ok = w.ok, outcome_digest = w.digest
  FROM unnest($1::bytea[], $2::bool[], $3::bytea[]) AS w(lease, ok, digest)
 WHERE p.lease = w.lease AND p.lease = ANY($1::bytea[])"""
_STOPS = """
INSERT INTO stops (session, lease, why) SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[])
-- A lease that was asked for may end before that is told: then it is to stop.
ON CONFLICT (session, lease) DO UPDATE SET why = excluded.why WHERE stops.why = 'unstarted'"""
_END = """
-- Without a secret the row claims no winner: all its attempts stand in past_attempts.
UPDATE tasks t SET state = w.state, secret = NULL, outcome = w.outcome, encoding = w.encoding,
       usage = w.usage, server = $8, n = w.n,
       ended_at = greatest($9, t.submitted_at, t.started_at)
  FROM unnest($1::bigint[], $2::int[], $3::int[], $4::bytea[], $5::int[], $6::bytea[],
              $7::bigint[])
    AS w(number, attempt, state, outcome, encoding, usage, n)
-- A row that changed since it was read is left alone: its new state has another writer.
 WHERE t.number = w.number AND t.state < 3 AND t.attempt = w.attempt"""
_WAIT = """
UPDATE tasks t SET state = w.state, secret = NULL
  FROM unnest($1::bigint[], $2::int[], $3::int[]) AS w(number, attempt, state)
-- Only the attempt that was read: a newer one is not this writer's.
 WHERE t.number = w.number AND t.state + 0 = 2 AND t.attempt = w.attempt"""
_KINDS = """
UPDATE tasks t SET kind = w.kind, lane = w.lane
  FROM unnest($1::bigint[], $2::int[], $3::int[]) AS w(number, kind, lane)
 WHERE t.number = w.number"""
_EXTRAS = """
INSERT INTO task_extras AS x
  (number, delayed_until, errors, crashes, undelivered, releases, unstarted)
SELECT * FROM unnest($1::bigint[], $2::float8[], $3::int[], $4::int[], $5::int[], $6::int[],
                     $7::int[])
ON CONFLICT (number) DO UPDATE SET
  delayed_until = excluded.delayed_until, errors = excluded.errors, crashes = excluded.crashes,
  undelivered = excluded.undelivered, releases = excluded.releases,
  unstarted = excluded.unstarted, leased_until = NULL"""
_WITHDRAW = """
INSERT INTO task_extras (number, withdrawn_attempt) SELECT * FROM unnest($1::bigint[], $2::int[])
ON CONFLICT (number) DO UPDATE SET withdrawn_attempt = excluded.withdrawn_attempt"""
_CLEAR_EXTRAS = """
UPDATE task_extras SET delayed_until = NULL, start_by = NULL, leased_until = NULL, pending = 0
 WHERE number = ANY($1::bigint[])
   AND (delayed_until IS NOT NULL OR start_by IS NOT NULL OR leased_until IS NOT NULL
        OR pending > 0)"""
_NO_WAITS = "DELETE FROM dependencies WHERE task = ANY($1::bigint[])"


class Changes:
    """What becomes of tasks that are locked; a task once. Written together."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._past: list[tuple[object, ...]] = []
        self._told: list[tuple[object, ...]] = []
        self._stops: list[tuple[int, str, str]] = []
        self._ends: list[tuple[FullRow, Change, AttemptReport | None]] = []
        self._waits: list[tuple[int, int, int]] = []
        self._extras: list[tuple[object, ...]] = []
        self._kinds: list[tuple[int, int, int]] = []
        self._withdrawn: list[tuple[int, int]] = []

    def end_attempt(
        self, row: FullRow, *, told: tuple[bool, bytes] | None = None, why: str = ""
    ) -> None:
        """The running attempt ends without ending its task as its winner: it was issued.

        `why`: its worker does not know yet, and is told at its next exchange.
        """
        assert row.lease is not None
        past = (row.secret, row.number, row.worker, row.session, row.attempt, row.generation)
        self._past.append((*past, *(told or (None, None))))
        if not (why and self._tell(row, why)) and row.session is not None:
            self._group.note_free(row.kind.number, row.session)

    def _tell(self, row: FullRow, why: str) -> bool:
        """Tell who holds it; False when nobody can be told."""
        # A plain worker has no replies, and an ended session no exchanges: their answers are late.
        if row.lease is None or row.session is None or row.is_plain or row.is_over:
            return False
        self._stops.append((row.session, row.lease.text, why))
        self._group.told.add(row.session)
        return True

    def withdraw(self, row: FullRow) -> None:
        """Ask for the lease of a task that may not have started: given back, it ends."""
        self._tell(row, UNSTARTED)
        self._withdrawn.append((row.number, row.attempt))

    def tell_past(self, lease: LeaseKey, told: tuple[bool, bytes]) -> None:
        """An earlier attempt was answered."""
        self._told.append((lease.secret, *told))

    def apply(self, row: FullRow, change: Change, report: AttemptReport | None = None) -> None:
        """What `transitions` decided. Every attempt that ran has been ended before."""
        if change.state.is_terminal:
            self._ends.append((row, change, report))
        else:
            self._wait(row, change)
        counts = (
            change.errors,
            change.crashes,
            change.undelivered,
            change.releases,
            change.unstarted,
        )
        if any(counts) or change.state is State.DELAYED:
            until = None
            if change.state is State.DELAYED:
                until = self._group.now + change.wait_seconds
            self._extras.append((row.number, until, *counts))

    def change_kind(self, row: FullRow, spec: KindSpec) -> None:
        """A task that does not wait becomes one of another kind, if that was made before."""
        kind = self._group.memory.kinds_by_spec.get(spec)
        if kind is not None and kind.number != row.kind.number:
            self._kinds.append((row.number, kind.number, kind.lane))
            self._group.move(row.kind, kind)
            row.kind = kind

    def _wait(self, row: FullRow, change: Change) -> None:
        """A running task is queued or delayed again."""
        self._waits.append((row.number, row.attempt, int(change.state)))
        self._group.load[row.kind.number] += 1
        if change.state is State.QUEUED:
            self._group.queue(row.kind.lane, row.due_at)

    async def write(self) -> None:
        """Write all of it."""
        group = self._group
        group.is_durable |= bool(self._past or self._told or self._ends or self._waits)
        for sql, rows in (
            (_PAST, self._past),
            (_TOLD, self._told),
            (_STOPS, self._stops),
            (_KINDS, self._kinds),
            (_WITHDRAW, self._withdrawn),
        ):
            if rows:
                await group.execute(sql, *columns(rows))
        if self._waits:
            await self._expect(_WAIT, columns(self._waits), len(self._waits))
        if self._extras:
            await group.execute(_EXTRAS, *columns(self._extras))
        if self._ends:
            await self._write_ends()

    async def _expect(self, sql: str, values: list[Any], count: int) -> None:
        if await self._group.execute(sql, *values) != count:
            raise Again("a task is not as it was read")

    async def _write_ends(self) -> None:
        group = self._group
        first_n = group.places(len(self._ends))
        rows, outcomes = [], []
        for n, (row, change, report) in enumerate(self._ends, first_n):
            encoding, outcome = outcome_of(change, report)
            usage = msgspec.msgpack.encode(report.used) if report and report.used else None
            code = None if encoding is None else int(encoding)
            rows.append(
                (row.number, row.attempt, int(change.state), in_row(outcome), code, usage, n)
            )
            outcomes.append((row.number, outcome))
            group.ended.append(_ended(group, row, change.state, n, encoding, outcome))
        values = [*columns(rows), group.memory.server, group.now]
        await self._expect(_END, values, len(rows))
        await group.write_payloads(1, outcomes)
        await group.execute(_CLEAR_EXTRAS, [row.number for row, *_ in self._ends])
        pending = [row.number for row, *_ in self._ends if row.pending]
        if pending:
            await group.execute(_NO_WAITS, pending)
        for row, change, _ in self._ends:
            group.count_end(row.batch, change.state)
            if row.state in (State.QUEUED, State.DELAYED):
                group.load[row.kind.number] -= 1


def _ended(
    group: Group,
    row: FullRow,
    state: State,
    n: int,
    encoding: Encoding | None,
    outcome: bytes | None,
) -> Ended:
    return Ended(
        row.number,
        row.id,
        row.kind.spec.owner,
        row.batch,
        row.position if row.position is not None else -1,
        state,
        group.memory.server,
        n,
        encoding,
        outcome,
    )


def by_number(rows: Iterable[FullRow]) -> dict[int, FullRow]:
    """Rows by their number."""
    return {row.number: row for row in rows}
