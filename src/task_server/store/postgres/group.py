"""One group: the transaction of operations that were waiting, and what follows its commit.

Memory is changed after the commit alone, so that a group can be undone and run again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from task_server.scheduling.statistics import Run, Statistics
from task_server.store.attempts import AttemptReport, Dealt, Decided
from task_server.store.group_commit import Operation
from task_server.store.kinds import Kind
from task_server.store.outcomes import INLINE_BYTES
from task_server.store.postgres.known import columns
from task_server.store.postgres.memory import Fresh, Memory, Parking, Request, Waiter
from task_server.store.rows import Ended
from task_server.store.sessions import ExchangeRequest, ExchangeResult
from task_server.store.states import State
from task_server.store.submissions import Accepted, Submission
from task_server.store.transitions import Policy

_STATISTICS = (
    "calls, failures, first_seconds, run_seconds, queue_seconds, install_seconds, import_seconds,"
    " cpu_seconds, peak_bytes, histogram, accuracy, pace, peaks"
)
_COUNTS = f"""
WITH batch AS (
  INSERT INTO batch_counts AS c (batch, server, succeeded, failed, cancelled, expired)
  SELECT w.batch, $1, w.succeeded, w.failed, w.cancelled, w.expired
    FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[])
      AS w(batch, succeeded, failed, cancelled, expired)
  ON CONFLICT (batch, server) DO UPDATE SET
    succeeded = c.succeeded + excluded.succeeded, failed = c.failed + excluded.failed,
    cancelled = c.cancelled + excluded.cancelled, expired = c.expired + excluded.expired),
load AS (
  INSERT INTO kind_load AS l (kind, server, queued, stored)
  SELECT w.kind, $1, w.queued, w.stored
    FROM unnest($8::int[], $9::bigint[], $10::bigint[]) AS w(kind, queued, stored)
  ON CONFLICT (kind, server) DO UPDATE SET
    queued = l.queued + excluded.queued, stored = l.stored + excluded.stored)
INSERT INTO function_statistics (function, server, changed_at, {_STATISTICS})
SELECT w.function, $1, $2, w.calls, w.failures, w.first, w.run, w.queue, w.install, w.import,
       w.cpu, w.peak, w.histogram, w.accuracy, w.pace, w.peaks
  FROM unnest($11::int[], $12::bigint[], $13::bigint[], $14::float8[], $15::float8[], $16::float8[],
              $17::float8[], $18::float8[], $19::float8[], $20::bigint[], $21::bytea[],
              $22::bytea[], $23::bytea[], $24::bytea[])
    AS w(function, calls, failures, first, run, queue, install, import, cpu, peak, histogram,
         accuracy, pace, peaks)
ON CONFLICT (function, server) DO UPDATE SET changed_at = excluded.changed_at, {
    ", ".join(f"{name.strip()} = excluded.{name.strip()}" for name in _STATISTICS.split(","))
}"""
_PAYLOADS = """
INSERT INTO payloads (number, part, data)
SELECT w.number, $3, w.data FROM unnest($1::bigint[], $2::bytea[]) AS w(number, data)
ON CONFLICT (number, part) DO UPDATE SET data = excluded.data"""
_LOGS = """
INSERT INTO logs (number, attempt, log)
SELECT * FROM unnest($1::bigint[], $2::int[], $3::bytea[])
ON CONFLICT (number, attempt) DO UPDATE SET log = excluded.log"""


class Again(Exception):
    """Another server was faster, and that is seen only now: the whole group is run again."""


class Group:
    """The transaction at hand."""

    def __init__(
        self,
        memory: Memory,
        *,
        policy: Policy,
        lease_seconds: float,
        jitter: Callable[[], float],
        is_unsure: bool,
    ) -> None:
        self.memory = memory
        self.policy = policy
        self.lease_seconds = lease_seconds
        self.jitter = jitter
        self.is_unsure = is_unsure
        """The group before may have been committed, though nobody was told."""
        self.connection: Any = None
        self.now = 0.0
        # What is to be done.
        self.submissions: list[tuple[Submission, Operation[Accepted]]] = []
        self.exchanges: list[tuple[ExchangeRequest, Parking]] = []
        self.leases: list[tuple[int, float, Parking]] = []
        """Of plain workers: token, least seconds of the lease."""
        self.answers: list[tuple[int, AttemptReport, Operation[Decided]]] = []
        """Of plain workers, by token."""
        self.missing_blobs: set[str] = set()
        """That answers are said to be in."""
        self.cancels: list[tuple[int | None, Sequence[bytes], Operation[list[int]]]] = []
        self.named: dict[tuple[int | None, tuple[bytes, ...]], set[int]] = {}
        """Numbers of the tasks that are to be cancelled."""
        self.looks_for_news = False
        """Parked sessions may have something to hear."""
        self.deferred: list[Operation[Any]] = []
        """They meet another operation of this group: the next one does them."""
        self.fresh: list[Fresh] = []
        """Tasks that are stored once it is clear whether somebody takes them."""
        # What was done.
        self.is_durable = is_unsure
        """Something that was acknowledged must outlive a crash of the database."""
        self.first_n = self.next_n = memory.next_n
        self.ended: list[Ended] = []
        self.batches: dict[int, list[int]] = {}
        self.grown: set[int] = set()
        """Batches that got members, or were closed."""
        self.followed = 0
        """How many of those that ended were looked at for tasks that wait for them."""
        self.unfollowed: set[int] = set()
        """Numbers of ended tasks that others may wait for."""
        self.leaves_waits = False
        """There are more who wait than one group can let go."""
        self.counted: dict[int, Statistics] = {}
        self.load: Counter[int] = Counter()
        self.stored: Counter[int] = Counter()
        self.queued: dict[int, float] = {}
        """Lanes that got something to lease, with the least `due_at` of it."""
        self.left: set[int] = set()
        """Lanes whose tasks were locked here for a moment and not taken."""
        self.requests: list[Request] = []
        """As they are now."""
        self.has_new_requests = False
        self.broken: dict[tuple[int, str], float] = {}
        """As in memory, of this group's reports."""
        self.told: set[int] = set()
        """Sessions with something to hear."""
        self.parking: dict[int, Waiter] = {}
        self.parking_plain: list[Waiter] = []
        self.ending: dict[Waiter, None] = {}
        """Parked requests that are answered with this group."""
        self.stops: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self.given: dict[Waiter, list[Dealt]] = {}
        self.on_commit: list[Callable[[], None]] = []
        """What else changes in memory then."""

    async def fetch(self, sql: str, *values: object) -> list[Any]:
        """All rows of a statement."""
        found: list[Any] = await self.connection.fetch(sql, *values)
        return found

    async def execute(self, sql: str, *values: object) -> int:
        """How many rows a statement changed."""
        tag: str = await self.connection.execute(sql, *values)
        return int(tag.rpartition(" ")[2])

    # ---- counting

    def places(self, count: int) -> int:
        """The first of so many places among the tasks that this server ends."""
        first = self.next_n
        self.next_n += count
        return first

    def count_end(self, batch: int | None, state: State, count: int = 1) -> None:
        """Count an ended task in its batch."""
        if batch is not None:
            change = self.batches.setdefault(batch, [0, 0, 0, 0])
            change[state - State.SUCCEEDED] += count

    def count_attempts(self, kind: Kind, runs: Sequence[Run], *, is_success: bool) -> None:
        """Count attempts that ended with answers or with failures, and judge their estimates."""
        statistics = self._own(kind)
        if is_success:
            environment = self.memory.environment_of(kind)
            statistics.count_all(runs, environment=environment, at=self.now)
        else:
            statistics.count_failures(runs)

    def _own(self, kind: Kind) -> Statistics:
        statistics = self.counted.get(kind.function)
        if statistics is None:
            statistics = self.counted[kind.function] = self.memory.own_copy(kind.function)
        return statistics

    def count_out_of_memory(self, kind: Kind, peak_bytes: int) -> None:
        """Count an attempt that was ended for want of memory, besides its failure."""
        self._own(kind).count_out_of_memory(peak_bytes)

    def move(self, old: Kind, new: Kind) -> None:
        """A stored task that does not wait becomes one of another kind."""
        self.stored[old.number] -= 1
        self.stored[new.number] += 1

    def note_free(self, kind: int, session: int) -> None:
        """A task of that kind has left a session, which may be parked at another server.

        There what it required is dealt at once; a slot alone is asked for by the worker itself.
        """
        if self.memory.kinds[kind].spec.requires:
            self.told.add(session)

    def settle(self, owner: int, *, predicted: float, seconds: float) -> None:
        """An attempt took `seconds`, not what its owner was charged at the lease."""
        self.memory.shares.settle(owner, predicted=abs(predicted), seconds=seconds)

    def queue(self, lane: int, due_at: float) -> None:
        """A lane got something to lease."""
        self.queued[lane] = min(self.queued.get(lane, due_at), due_at)

    # ---- writing

    async def write_payloads(self, part: int, payloads: Iterable[tuple[int, bytes | None]]) -> None:
        """Keep the payloads that do not lie in the row: (number, data)."""
        large = [(number, data) for number, data in payloads if data and len(data) > INLINE_BYTES]
        if large:
            await self.execute(_PAYLOADS, *columns(large), part)

    async def write_features(self, features: list[tuple[int, bytes]]) -> None:
        """What clients say of tasks' arguments: (number, features)."""
        if features:
            await self.execute(_PAYLOADS, *columns(features), 2)

    async def write_logs(self, logs: list[tuple[int, int, bytes]]) -> None:
        """Keep what attempts printed: (number, attempt, log)."""
        if logs:
            # Of two logs of one attempt the last is kept; a statement may not write a row twice.
            by_attempt = {each[:2]: each for each in logs}
            await self.execute(_LOGS, *columns(list(by_attempt.values())))

    async def write_counts(self) -> None:
        """Fold the counts of this group into this server's rows."""
        batches = [(batch, *counts) for batch, counts in self.batches.items()]
        loads = [
            (kind, self.load[kind], self.stored[kind])
            for kind in self.load.keys() | self.stored.keys()
            if self.load[kind] or self.stored[kind]
        ]
        if batches or loads or self.counted:
            values = (
                *columns(batches, width=5),
                *columns(loads, width=3),
                *columns(self._statistics(), width=14),
            )
            await self.execute(_COUNTS, self.memory.server, self.now, *values)

    def _statistics(self) -> list[tuple[object, ...]]:
        for statistics in self.counted.values():
            statistics.settle()
        return [
            (
                each.function,
                each.calls,
                each.failures,
                each.first_seconds,
                each.run_seconds,
                each.queue_seconds,
                each.install_seconds,
                each.import_seconds,
                each.cpu_seconds,
                each.peak_bytes,
                each.histogram.to_bytes(),
                each.accuracy.to_bytes(),
                each.pace.to_bytes(),
                each.peaks.to_bytes(),
            )
            for each in self.counted.values()
        ]

    # ---- after the commit

    def keep(self) -> list[Operation[Any]]:
        """It is on disk: change the memory, settle who is parked; gives those operations."""
        memory = self.memory
        memory.next_n = self.next_n
        memory.shares.keep()
        for statistics in self.counted.values():
            memory.count(statistics)
        for request in self.requests:
            memory.remember_request(request)
        for change in self.on_commit:
            change()
        memory.broken.update(self.broken)
        for lane, due_at in self.queued.items():
            memory.wake_lane(lane, due_at)
        return self._settle_parked()

    def _settle_parked(self) -> list[Operation[Any]]:
        memory = self.memory
        for waiter in [*self.parking.values(), *self.parking_plain]:
            memory.parked[waiter.operation] = waiter
        memory.waiters.update(self.parking)
        return [self._settle(waiter) for waiter in {**self.ending, **dict.fromkeys(self.given)}]

    def _settle(self, waiter: Waiter) -> Operation[ExchangeResult]:
        waiter.result.tasks = [*waiter.result.tasks, *self.given.get(waiter, ())]
        if self.memory.waiters.get(waiter.session) is waiter:  # no newer exchange took its place
            waiter.result.stop = [*waiter.result.stop, *self.stops.get(waiter.session, ())]
        unpark(self.memory, waiter)
        return waiter.operation

    def undo(self) -> None:
        """It was rolled back."""
        self.memory.shares.undo()


def unpark(memory: Memory, waiter: Waiter) -> None:
    """Let a parked request have what there is for it."""
    memory.parked.pop(waiter.operation, None)
    if memory.waiters.get(waiter.session) is waiter:
        del memory.waiters[waiter.session]
    waiter.operation.settle(waiter.result)
