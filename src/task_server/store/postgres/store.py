"""The store on PostgreSQL: its verbs, each a share of the next group of this server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

import asyncpg

from task_server.errors import Unavailable
from task_server.protocol.ids import new_id, to_text
from task_server.store.attempts import AttemptReport, Dealt, Decided
from task_server.store.contract_learning import NewPrice
from task_server.store.group_commit import LoopGroupCommit, Operation
from task_server.store.postgres import cancel as cancels
from task_server.store.postgres import sweep as sweeps
from task_server.store.postgres.clock import extend_leases
from task_server.store.postgres.connection import Connection, PgRows, Readers, connect
from task_server.store.postgres.following import Following
from task_server.store.postgres.group import Group
from task_server.store.postgres.groups import Alone, Groups
from task_server.store.postgres.join import join
from task_server.store.postgres.lazily import write_lazily
from task_server.store.postgres.loading import load, places
from task_server.store.postgres.memory import Memory, Parking
from task_server.store.postgres.migrate import newest_version
from task_server.store.postgres.news import News
from task_server.store.postgres.reprice import reprice
from task_server.store.postgres.requests import ask_for_lock
from task_server.store.postgres.servers import Servers
from task_server.store.postgres.snapshots import Snapshots
from task_server.store.postgres.submit import check_texts, open_batch
from task_server.store.postgres.upkeep import Upkeep
from task_server.store.reading import Reads
from task_server.store.records.sql import Rows, Work
from task_server.store.rows import DatabaseHealth, Ended
from task_server.store.sessions import ExchangeRequest, ExchangeResult, JoinRequest
from task_server.store.submissions import Accepted, BatchSpec, Submission
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")


class PostgresStore(Groups, Following, Snapshots, Upkeep, Reads):
    """One server of a database that may have several. Made by `open`."""

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float,
        policy: Policy | None,
        jitter: Callable[[], float],
        clock: Callable[[], float] | None,
        on_broken: Callable[[], None] | None,
        on_time: Callable[[float], None] | None,
    ) -> None:
        self.policy = policy or Policy()
        self.lease_seconds = lease_seconds
        self.server = 0
        self.on_ended: Callable[[Sequence[Ended]], None] = lambda ended: None
        self.on_new_requests: Callable[[], None] = lambda: None
        self.on_changed: Callable[[Collection[int]], None] = lambda batches: None
        """Called on the event loop when batches grew or were closed at another server."""
        self.on_full: Callable[[], bool] = lambda: False
        self.watched: Callable[[], tuple[Collection[bytes], Collection[int]]] = lambda: ((), ())
        """Tasks and batches that somebody waits for at this server."""
        self.servers = Servers(
            url, on_lost=on_broken or (lambda: None), on_time=on_time or (lambda now: None)
        )
        self.servers.on_unreachable = self._drop_connection
        self._url = url
        self._jitter = jitter
        self._test_clock = clock
        self._offset = time.time() - time.monotonic()
        self._connection: Connection | None = None
        self._commits = LoopGroupCommit(self._run)
        self._begin_to_follow()

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        lease_seconds: float = 60.0,
        policy: Policy | None = None,
        jitter: Callable[[], float] = random.random,
        clock: Callable[[], float] | None = None,
        on_broken: Callable[[], None] | None = None,
        on_time: Callable[[float], None] | None = None,
    ) -> PostgresStore:
        """Begin to work on a database that has its tables.

        `clock` decides about deadlines in the place of the database's own. `on_broken`: this
        server lost its number to another, and has to stop. `on_time` hears the database's time.
        """
        store = cls(
            url,
            lease_seconds=lease_seconds,
            policy=policy,
            jitter=jitter,
            clock=clock,
            on_broken=on_broken,
            on_time=on_time,
        )
        try:
            await store._open()
        except BaseException:
            await store.abandon()
            raise
        return store

    async def _open(self) -> None:
        self.server = await self.servers.claim()
        self.memory = Memory(self.server)
        self._connection = await connect(self._url)
        await load(self._connection, self.memory)
        self._followed.update(await places(self._connection))
        self._readers = await Readers.open(self._url, patience=self.servers.patience)
        self._news = News(
            self._url,
            self.server,
            self._hear,
            self._hear_gap,
            has_listeners=lambda: self.servers.has_others,
        )
        await self._news.start()
        self._commits.start()
        self._looking = asyncio.ensure_future(self._keep_looking())
        await self._give_new_terms()

    async def close(self) -> None:
        """Write what waits, end parked requests, and let go of the database."""
        if self._commits.is_closed:
            return
        self.release_parked()
        with contextlib.suppress(Unavailable):
            await self._write_lazily()
        await self._commits.close()
        self.release_parked()
        await self._let_go_of_all()
        await self.servers.close()

    async def abandon(self) -> None:
        """End without a word, as if killed; for tests."""
        await self._commits.abandon()
        await self.servers.abandon()
        await self._let_go_of_all()

    async def _let_go_of_all(self) -> None:
        await self._stop_following()
        if hasattr(self, "_news"):
            await self._news.close()
        if hasattr(self, "_readers"):
            await self._readers.close()
        if self._connection is not None:
            self._connection.terminate()

    # ---- the verbs

    async def submit(self, submission: Submission) -> Accepted:
        """See `Store.submit`."""
        check_texts(submission)

        def work(operation: Operation[Accepted]) -> None:
            self._group.submissions.append((submission, operation))

        rows = len(submission.tasks)
        return await self._commits.put(Operation(work, rows=rows, is_intake=True))

    async def open_batch(self, owner: int, batch: BatchSpec) -> Accepted:
        """See `Store.open_batch`."""
        return await self._do(lambda group: open_batch(group, owner, batch))

    async def close_batch(self, owner: int | None, batch: bytes) -> bool:
        """See `Store.close_batch`."""
        return await self._do(lambda group: cancels.close_batch(group, owner, batch))

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
        new_worker = to_text(new_id())
        return await self._do(lambda group: join(group, request, new_worker))

    async def exchange(self, request: ExchangeRequest) -> ExchangeResult:
        """See `Store.exchange`."""

        def work(operation: Operation[ExchangeResult]) -> None:
            self._group.exchanges.append((request, parking))

        parking = Parking(work, rows=len(request.reports))
        return await self._park(parking, request.wait_until)

    async def plain_lease(self, token: int, *, wait_until: float, seconds: float) -> Dealt | None:
        """See `Store.plain_lease`."""

        def work(operation: Operation[ExchangeResult]) -> None:
            self._group.leases.append((token, seconds, parking))

        parking = Parking(work, rows=0)
        result = await self._park(parking, wait_until)
        return result.tasks[0] if result.tasks else None

    async def plain_answer(self, token: int, report: AttemptReport) -> Decided:
        """See `Store.plain_answer`."""

        def work(operation: Operation[Decided]) -> None:
            self._group.answers.append((token, report, operation))

        return await self._commits.put(Operation(work))

    async def cancel(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """See `Store.cancel`."""

        def work(operation: Operation[list[int]]) -> None:
            self._group.cancels.append((owner, ids, operation))

        return await self._commits.put(Operation(work, rows=len(ids)))

    async def retry(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """See `Store.retry`."""
        return await self._do(lambda group: cancels.retry(group, owner, ids))

    async def reprice(self, prices: Sequence[NewPrice]) -> int:
        """See `Store.reprice`."""
        return await self._do(lambda group: reprice(group, prices))

    async def expire(self) -> None:
        """See `Store.expire`."""
        await self._write_lazily()
        await self._give_new_terms()
        while self.servers.leads and await self._do(sweeps.sweep):
            pass

    async def _write_lazily(self) -> None:
        is_written = self.memory.shares.is_written
        if self.servers.has_others or not is_written or self.memory.written_n < self.memory.next_n:
            await self._commits.put(Alone(write_lazily, deals=False))

    async def _give_new_terms(self) -> None:
        by = self.servers.take_new_terms()
        if by is not None:
            await self.extend_leases(by=by)

    async def extend_leases(self, *, by: float = 0.0) -> None:
        """See `Store.extend_leases`."""
        await self._do(lambda group: extend_leases(group, by=by))

    async def ask_for_lock(self, text: str, *, python: str, environment: str | None) -> None:
        """See `Store.ask_for_lock`."""
        await self._do(
            lambda group: ask_for_lock(group, text, python=python, environment=environment)
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
        while await self._do(lambda group: sweeps.lock_failed(group, text, message)):
            pass

    # ---- cold nouns

    async def write(self, work: Work[T]) -> T:
        """Do something rare in a transaction of its own; when it raises, nothing of it is kept."""

        async def act(group: Group) -> T:
            group.is_durable = True
            return await work(PgRows(group.connection))

        return await self._do(act)

    async def read(self, work: Work[T]) -> T:
        """Read what is committed."""
        return await self._readers.read(work)

    async def look(self, work: Work[T]) -> T:
        """Read a row or two by key."""
        return await self._readers.read(work)

    async def health(self) -> DatabaseHealth:
        """See `Store.health`."""

        async def nothing(rows: object) -> None: ...

        health = DatabaseHealth("postgres", False, 0, newest_version())
        try:
            health.version = await self._readers.read(_version)
            await self.write(nothing)
            health.is_writable = True
        except (asyncpg.PostgresError, Unavailable) as error:
            log.warning("the database does not do its work: %s", error)
        return health

    def _drop_connection(self) -> None:
        """The database does not answer: a group that waits for it is not to wait for ever."""
        if self._connection is not None:
            self._connection.terminate()

    # ---- parking

    def release_parked(self, workers: Collection[int] | None = None) -> None:
        """See `Store.release_parked`."""
        for operation, waiter in list(self.memory.parked.items()):
            if workers is None or waiter.worker in workers:
                self._end_park(operation)

    async def _do(self, act: Callable[[Group], Awaitable[T]]) -> T:
        return await self._put(Alone(act))

    async def _put(self, operation: Operation[T]) -> T:
        return await self._commits.put(operation)

    async def _park(self, parking: Parking, until: float) -> ExchangeResult:
        seconds = until - self._clock()
        parking.is_over = seconds <= 0
        future = self._commits.put(parking)
        if parking.is_over:
            return await future
        timer = asyncio.get_running_loop().call_later(seconds, self._end_park, parking)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            parking.is_gone = True  # the caller went away: give it no tasks
            self._end_park(parking)
            raise
        finally:
            timer.cancel()

    def _clock(self) -> float:
        return time.monotonic() + self._offset if self._test_clock is None else self._test_clock()

    def _note_time(self, now: float) -> None:
        self._offset = now - time.monotonic()


async def _version(rows: Rows) -> int:
    return int((await rows.fetch("SELECT value FROM meta WHERE name = 'version'"))[0][0])
