"""The store on SQLite: its verbs, each a share of the next group."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sqlite3
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from task_server.errors import RequestError, Unavailable
from task_server.store.attempts import AttemptReport, Dealt, Decided
from task_server.store.contract_learning import NewPrice
from task_server.store.group_commit import GroupCommit, Operation
from task_server.store.reading import Reads
from task_server.store.records.sql import Work, finish_now
from task_server.store.rows import DatabaseHealth, Ended
from task_server.store.sessions import ExchangeRequest, ExchangeResult, JoinRequest
from task_server.store.sqlite import cancel as cancels
from task_server.store.sqlite import submit as submits
from task_server.store.sqlite import sweep as sweeps
from task_server.store.sqlite.connection import (
    explained,
    hold_lock,
    open_reader,
    open_writer,
)
from task_server.store.sqlite.finish import report_all
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.groups import BROKEN, Groups
from task_server.store.sqlite.log_ahead import LogAhead
from task_server.store.sqlite.log_bound import LogBound
from task_server.store.sqlite.migrate import newest_version, version_of
from task_server.store.sqlite.reprice import reprice
from task_server.store.sqlite.restart import extend_leases, follow_clock
from task_server.store.sqlite.restored import begin_anew, is_restored
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.sqlite.sessions import (
    exchange,
    join,
    plain_lease,
    plain_session,
)
from task_server.store.sqlite.snapshots import Snapshots
from task_server.store.sqlite.upkeep import Upkeep
from task_server.store.submissions import Accepted, BatchSpec, Submission
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")

SWITCH_SECONDS = 0.0002
"""How soon threads take turns. The default of 5 ms made each of the writer's statements wait that
long beside a busy event loop."""


class SqliteStore(Groups, Snapshots, Upkeep, Reads):
    """One file, one writer thread with group commit, a few readers."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        lease_seconds: float = 60.0,
        policy: Policy | None = None,
        jitter: Callable[[], float] = random.random,
        on_broken: Callable[[], None] | None = None,
    ) -> None:
        self.path = path
        self.policy = policy or Policy()
        self.lease_seconds = lease_seconds
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda ended: None
        self.on_new_requests: Callable[[], None] = lambda: None
        self.on_full: Callable[[], bool] = lambda: False
        self.on_changed: Callable[[Collection[int]], None] = lambda batches: None
        self.watched: Callable[[], tuple[Collection[bytes], Collection[int]]] = lambda: ((), ())
        self._on_broken = on_broken or (lambda: None)
        """Called on the event loop when the file can no longer be written."""
        self._clock = clock
        self._jitter = jitter
        with ExitStack() as undo, explained(path):
            self._lock = hold_lock(path)
            undo.callback(os.close, self._lock)
            self._connection = open_writer(path, holds_lock=True)
            undo.callback(self._connection.close)
            self._begin()
            undo.pop_all()
        sys.setswitchinterval(SWITCH_SECONDS)
        self._loop = asyncio.get_running_loop()
        self._commits = GroupCommit(
            self._run, on_idle=self._read_ahead, on_quiet=self._rest, name="store-writer"
        )
        self._commits.start()
        self._reading: list[sqlite3.Connection] = []
        self._reader = threading.local()
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="store-reader")
        self._log_bound = LogBound(self._connection, path)
        self._log_ahead = LogAhead(self._connection, path)

    def _begin(self) -> None:
        self._load()
        if is_restored(self._connection):
            group = self._new_group()
            begin_anew(group)
            self._commit(group, [])
            self._load()
        extend_leases(self.memory, now=self._clock(), lease_seconds=self.lease_seconds)

    async def close(self) -> None:
        """Write what waits, end parked requests, and let go of the file."""
        if self._commits.is_closed:
            return

        def end(operation: Operation[None]) -> None:
            self._group.ending += self.memory.parked.values()
            sweeps.write_lazily(self._group)
            operation.settle(None)

        self._commits.put(Operation(end))
        await self._commits.close()
        await asyncio.to_thread(self._readers.shutdown)
        for connection in [*self._reading, self._connection]:
            connection.close()
        os.close(self._lock)

    # ---- the verbs

    async def submit(self, submission: Submission) -> Accepted:
        """See `Store.submit`."""
        return await self._do(
            lambda group: submits.submit(group, submission),
            rows=len(submission.tasks),
            is_intake=True,
        )

    async def open_batch(self, owner: int, batch: BatchSpec) -> Accepted:
        """See `Store.open_batch`."""
        return await self._do(lambda group: submits.open_batch(group, owner, batch), is_intake=True)

    async def close_batch(self, owner: int | None, batch: bytes) -> bool:
        """See `Store.close_batch`."""
        return await self._do(lambda group: submits.close_batch(group, owner, batch))

    async def cancel_batch(
        self, owner: int | None, batch: bytes, *, unstarted: bool = False
    ) -> int | None:
        """See `Store.cancel_batch`."""
        cancel = partial(cancels.cancel_batch, owner=owner, batch=batch, unstarted=unstarted)
        after: int | None = 0
        total = 0
        while after is not None:
            done = await self._do(partial(cancel, after=after))
            if done is None:
                return None
            count, after = done
            total += count
        return total

    async def join(self, request: JoinRequest) -> str:
        """See `Store.join`."""
        return await self._do(lambda group: join(group, request))

    async def exchange(self, request: ExchangeRequest) -> ExchangeResult:
        """See `Store.exchange`."""

        def work(operation: Operation[ExchangeResult]) -> None:
            exchange(self._group, request, operation)

        # An exchange that only parks writes nothing, and losing leases begins a transaction itself.
        is_quiet = not request.reports and not request.held
        operation = Operation(work, rows=0 if is_quiet else 1 + len(request.reports))
        return await self._park(operation, request.wait_until)

    async def plain_lease(self, token: int, *, wait_until: float, seconds: float) -> Dealt | None:
        """See `Store.plain_lease`."""

        def work(operation: Operation[ExchangeResult]) -> None:
            plain_lease(self._group, token, operation, wait_until=wait_until, seconds=seconds)

        result = await self._park(Operation(work), wait_until)
        return result.tasks[0] if result.tasks else None

    async def plain_answer(self, token: int, report: AttemptReport) -> Decided:
        """See `Store.plain_answer`."""
        return await self._do(
            lambda group: report_all(group, plain_session(group, token), [report])[0]
        )

    async def cancel(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """See `Store.cancel`."""
        return await self._do(lambda group: [cancels.cancel(group, owner, task) for task in ids])

    async def retry(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """See `Store.retry`."""
        return await self._do(lambda group: [cancels.retry(group, owner, task) for task in ids])

    async def reprice(self, prices: Sequence[NewPrice]) -> int:
        """See `Store.reprice`."""
        return await self._do(lambda group: reprice(group, prices), rows=len(prices))

    async def expire(self) -> None:
        """See `Store.expire`."""
        while await self._do(sweeps.sweep):
            pass

    async def extend_leases(self, *, by: float = 0.0) -> None:
        """See `Store.extend_leases`."""
        await self._do(lambda group: follow_clock(group, by=by))

    async def ask_for_lock(self, text: str, *, python: str, environment: str | None) -> None:
        """See `Store.ask_for_lock`."""
        await self._do(
            lambda group: group.ask_for_lock(group.memory.request(text, python, environment))
        )

    async def locked(self, text: str, *, environment: str, python: str, lock: str) -> None:
        """An environment request has its lock."""
        await self._do(
            lambda group: sweeps.locked(
                group, text, environment=environment, python=python, lock=lock
            )
        )

    async def lock_failed(self, text: str, message: str) -> None:
        """T15: an environment request's lock failed for good."""
        await self._do(lambda group: sweeps.lock_failed(group, text, message))

    # ---- cold nouns

    async def write(self, work: Work[T]) -> T:
        """Do something rare inside the next group; when it raises, nothing of it is kept."""

        def in_group(group: Group) -> T:
            group.write_fresh()
            group.connection.execute("SAVEPOINT work")
            try:
                return finish_now(work(SqliteRows(group.connection)))
            except RequestError:
                group.connection.execute("ROLLBACK TO work")
                raise
            finally:
                group.connection.execute("RELEASE work")

        return await self._do(in_group)

    async def health(self) -> DatabaseHealth:
        """See `Store.health`."""

        async def nothing(rows: object) -> None: ...

        health = DatabaseHealth("sqlite", False, 0, newest_version())
        try:
            health.version = await self._loop.run_in_executor(
                self._readers, lambda: version_of(self._lent())
            )
            await self.write(nothing)
            health.is_writable = True
        except (sqlite3.Error, Unavailable) as error:
            log.warning("the database does not do its work: %s", error)
        return health

    async def read(self, work: Work[T]) -> T:
        """Read what is committed, off the event loop."""
        return await self._loop.run_in_executor(self._readers, self._with_reader, work)

    async def look(self, work: Work[T]) -> T:
        """Read a row or two by key, on the event loop: 50 us, where a thread's turn costs 300."""
        return self._with_reader(work)

    def _with_reader(self, work: Work[T]) -> T:
        return finish_now(work(SqliteRows(self._lent())))

    def _lent(self) -> sqlite3.Connection:
        """This thread's connection."""
        connection: sqlite3.Connection | None = getattr(self._reader, "connection", None)
        if connection is None:
            connection = self._reader.connection = open_reader(self.path)
            self._reading.append(connection)
        return connection

    def release_parked(self, workers: Collection[int] | None = None) -> None:
        """See `Store.release_parked`."""
        for operation, waiter in list(self.memory.parked.items()):
            if workers is None or waiter.session.worker in workers:
                self._end_park(operation)

    # ---- groups

    async def _do(self, work: Callable[[Group], T], *, rows: int = 1, is_intake: bool = False) -> T:
        def settle(operation: Operation[T]) -> None:
            operation.settle(work(self._group))

        return await self._put(Operation(settle, rows=rows, is_intake=is_intake))

    def _put(self, operation: Operation[T]) -> asyncio.Future[T]:
        if self._is_broken:
            raise Unavailable(BROKEN)
        return self._commits.put(operation)

    async def _park(self, operation: Operation[ExchangeResult], until: float) -> ExchangeResult:
        future = self._put(operation)
        seconds = until - self._clock()
        if seconds <= 0:
            return await future
        timer = self._loop.call_later(seconds, self._end_park, operation)
        try:
            return await future
        except asyncio.CancelledError:
            self._end_park(operation)  # the caller went away: give it no tasks
            raise
        finally:
            timer.cancel()

    def _end_park(self, operation: Operation[ExchangeResult]) -> None:
        def work(ending: Operation[None]) -> None:
            waiter = self.memory.parked.get(operation)
            if waiter is not None:
                waiter.want = 0
                self._group.ending.append(waiter)
            ending.settle(None)

        if not self._commits.is_closed:
            self._commits.put(Operation(work, rows=0))
