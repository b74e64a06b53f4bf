"""One group: the transaction of all operations that were waiting, and what it leaves behind."""

from __future__ import annotations

import os
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Container, Sequence

import msgspec
from msgspec import Struct

from task_server.scheduling.lanes import Lane
from task_server.scheduling.statistics import Run, Statistics
from task_server.store.group_commit import Operation
from task_server.store.kinds import Kind
from task_server.store.outcomes import INLINE_BYTES
from task_server.store.rows import Ended
from task_server.store.sessions import ExchangeResult
from task_server.store.sqlite.many import write_many
from task_server.store.sqlite.memory import (
    FAILED_REQUEST,
    SERVER,
    Memory,
    Queued,
    Request,
    Session,
    Waiter,
)
from task_server.store.sqlite.window import read_window
from task_server.store.states import State
from task_server.store.transitions import Policy

_COLUMNS = (
    "number, id, digest, kind, batch, position, lane, submitted_at, ready_at, due_at, tie,"
    " predicted, predicted_high, payload, state, attempt"
)
_INSERT = f"INSERT INTO tasks ({_COLUMNS}) VALUES {{rows}}"
_INSERT_RUNNING = (
    f"INSERT INTO tasks ({_COLUMNS}, session, reply, secret, started_at) VALUES {{rows}}"
)


class BatchChange(Struct):
    """How many tasks of a batch ended, by state."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0


class Group:
    """The transaction at hand."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        memory: Memory,
        *,
        now: float,
        policy: Policy,
        lease_seconds: float,
        jitter: Callable[[], float],
        watched: Container[bytes] = (),
    ) -> None:
        self.connection = connection
        self.memory = memory
        self.now = now
        self.policy = policy
        self.lease_seconds = lease_seconds
        self.jitter = jitter
        self.watched = watched
        """Ids of tasks that somebody waits for here."""
        self.ended: list[Ended] = []
        self.fresh: list[Queued] = []
        """Tasks of this group that are not inserted yet, all of them in windows."""
        self.fresh_ids: dict[bytes, Queued] = {}
        self.batches: dict[int, BatchChange] = defaultdict(BatchChange)
        self.statistics: set[Statistics] = set()
        self.loads: set[int] = set()
        self.stored: dict[int, int] = defaultdict(int)
        """Rows inserted, by kind."""
        self.followed = 0
        """How many of those that ended were looked at for tasks that wait for them."""
        self.settled: list[Operation[ExchangeResult]] = []
        self.tell: list[Session] = []
        """Sessions with news: their parked exchange ends with this group."""
        self.ending: list[Waiter] = []
        """Parked requests that do not wait beyond this group."""
        self.has_new_requests = False

    def begin(self) -> None:
        """Begin the transaction, if it has not begun."""
        if not self.connection.in_transaction:
            self.connection.execute("BEGIN IMMEDIATE")

    # ---- queueing

    def lane_of(self, task: Queued) -> Lane[Queued]:
        """The lane of a task."""
        return self.memory.lanes[task.kind.lane]

    def add_load(self, kind: int, count: int) -> None:
        """Count queued tasks of a kind."""
        self.memory.load[kind] = self.memory.load.get(kind, 0) + count
        self.loads.add(kind)

    def ask_for_lock(self, request: Request) -> None:
        """Have an environment locked that somebody waits for, if it is not yet."""
        if request.state == FAILED_REQUEST:  # the index may have it by now
            self.connection.execute(
                "UPDATE environment_requests SET state = 0, tries = 0, try_at = 0,"
                " error = NULL WHERE request = ?",
                (request.number,),
            )
            request = Request(request.number, request.text, request.python, None, 0)
            self.memory.remember_request(request)
        self.has_new_requests |= request.state == 0

    def insert(self, tasks: list[Queued], state: State) -> None:
        """Insert tasks of this group that were not dealt."""
        if not tasks:
            return
        rows = [(*_row(task), int(state), task.attempt) for task in tasks]
        write_many(self.connection, _INSERT, rows)
        self.insert_payloads(tasks)
        for task in tasks:
            task.is_fresh = False
            if task.size > INLINE_BYTES:
                task.payload = None  # a window holds no large arguments; the lease reads them

    def insert_running(self, tasks: list[tuple[Queued, int, int, bytes]]) -> None:
        """Insert tasks that were dealt in the group that submits them: session, reply, secret."""
        running, now = int(State.RUNNING), self.now
        rows = [
            (*_row(task), running, task.attempt + 1, session, reply, bytearray(secret), now)
            for task, session, reply, secret in tasks
        ]
        write_many(self.connection, _INSERT_RUNNING, rows)
        for task, *_ in tasks:
            task.is_fresh = False
        self.insert_payloads([task for task, *_ in tasks])

    def insert_payloads(self, tasks: list[Queued]) -> None:
        """The arguments that do not lie in the row."""
        large = [task for task in tasks if task.payload and len(task.payload) > INLINE_BYTES]
        if large:
            write_many(
                self.connection,
                "INSERT INTO payloads (number, part, data) VALUES {rows}",
                [(task.number, 0, task.payload) for task in large],
            )

    def insert_features(self, features: list[tuple[int, bytes]]) -> None:
        """What clients say of tasks' arguments: (number, features)."""
        if features:
            write_many(
                self.connection,
                "INSERT INTO payloads (number, part, data) VALUES {rows}",
                [(number, 2, data) for number, data in features],
            )

    def write_fresh(self) -> None:
        """Insert what this group submitted, as queued, so that statements can see it."""
        waiting, self.fresh = [task for task in self.fresh if task.is_fresh], []
        self.insert(waiting, State.QUEUED)

    def offer(self, task: Queued) -> None:
        """A stored task became queued: let its lane's window know."""
        lane = self.lane_of(task)
        lane.window.offer(task)
        self.memory.active.add(lane.number)
        # What leaves a window must be in the database: only from there it can come back.
        self.insert([over for over in lane.window.trim() if over.is_fresh], State.QUEUED)

    def refill(self, lane: Lane[Queued]) -> None:
        """Read the next tasks of a lane whose window ran empty."""
        read_window(self.connection, self.memory, lane)

    def keep_places(self) -> None:
        """Rows go: numbers and places that they had are not given again after a restart."""
        self.connection.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES ('next_n', ?), ('next_number', ?)",
            (self.memory.next_n, self.memory.next_number),
        )

    # ---- counting

    def count_end(self, batch: int | None, state: State, count: int = 1) -> None:
        """Count ended tasks in their batch."""
        if batch is None:
            return
        change = self.batches[batch]
        if state is State.SUCCEEDED:
            change.succeeded += count
        elif state is State.FAILED:
            change.failed += count
        elif state is State.CANCELLED:
            change.cancelled += count
        else:
            change.expired += count

    def count_attempts(self, kind: Kind, runs: Sequence[Run], *, is_success: bool) -> None:
        """Count attempts that ended with answers or with failures, and judge their estimates."""
        statistics = self.memory.statistics_of(kind)
        if is_success:
            lane = self.memory.lanes.get(kind.lane)
            environment = None if lane is None else lane.environment
            statistics.count_all(runs, environment=environment, at=self.now)
        else:
            statistics.count_failures(runs)
        self.statistics.add(statistics)

    def count_out_of_memory(self, kind: Kind, peak_bytes: int) -> None:
        """Count an attempt that was ended for want of memory, besides its failure."""
        statistics = self.memory.statistics_of(kind)
        statistics.count_out_of_memory(peak_bytes)
        self.statistics.add(statistics)

    def move(self, old: Kind, new: Kind) -> None:
        """A stored task that does not wait becomes one of another kind."""
        for kind, count in ((old, -1), (new, 1)):
            self.add_load(kind.number, 0)
            self.stored[kind.number] += count

    def write_outcomes(self, outcomes: list[tuple[int, bytes]]) -> None:
        """Keep the answers and errors that do not lie in the row: (number, outcome)."""
        rows = [(number, 1, data) for number, data in outcomes if len(data) > INLINE_BYTES]
        if rows:
            write_many(
                self.connection,
                "INSERT OR REPLACE INTO payloads (number, part, data) VALUES {rows}",
                rows,
            )

    def write_logs(self, logs: list[tuple[int, int, bytes]]) -> None:
        """Keep what attempts printed: (number, attempt, log)."""
        if logs:
            write_many(
                self.connection,
                "INSERT OR REPLACE INTO logs (number, attempt, log) VALUES {rows}",
                logs,
            )

    def write_counts(self) -> None:
        """Fold the counts of this group into their rows."""
        if self.batches:
            self._write_batches()
        if self.statistics:
            self._write_statistics()
        if self.loads:
            load, stored = self.memory.load, self.stored
            write_many(
                self.connection,
                "INSERT INTO kind_load (kind, server, queued, stored) VALUES {rows}"
                " ON CONFLICT (kind, server) DO UPDATE SET queued = excluded.queued,"
                " stored = stored + excluded.stored",
                [(kind, SERVER, load[kind], stored.get(kind, 0)) for kind in self.loads],
            )
            for kind in self.loads:
                if load[kind] == 0:
                    del load[kind]

    def _write_batches(self) -> None:
        for batch, change in self.batches.items():
            self.connection.execute(
                "UPDATE batches SET succeeded = succeeded + ?, failed = failed + ?,"
                " cancelled = cancelled + ?, expired = expired + ? WHERE batch = ?",
                (*msgspec.structs.astuple(change), batch),
            )

    def _write_statistics(self) -> None:
        for statistics in self.statistics:
            statistics.settle()
        write_many(
            self.connection,
            "INSERT OR REPLACE INTO function_statistics (function, server, calls, failures,"
            " first_seconds, run_seconds, queue_seconds, install_seconds, import_seconds,"
            " cpu_seconds, peak_bytes, histogram, accuracy, pace, peaks) VALUES {rows}",
            [
                (
                    each.function,
                    SERVER,
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
                for each in self.statistics
            ],
        )


def _row(task: Queued) -> tuple[object, ...]:
    """What is stored of a new task, but for its state and lease."""
    digest, payload = task.digest, task.payload
    return (
        task.number,
        bytearray(task.id),
        digest if digest is None else bytearray(digest),
        task.kind.number,
        task.batch,
        task.position,
        task.kind.lane,
        task.submitted_at,
        task.submitted_at,
        task.due_at,
        task.tie,
        task.predicted,
        task.predicted_high,
        bytearray(payload) if payload is not None and len(payload) <= INLINE_BYTES else None,
    )


def secrets(count: int) -> list[bytes]:
    """New lease secrets of 128 bits."""
    random = os.urandom(16 * count)
    return [random[16 * i : 16 * i + 16] for i in range(count)]
