"""Groups of operations: each done in one transaction, run again where that may help, then told."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from task_server.errors import RequestError, StorageFull, Unavailable
from task_server.store.group_commit import LoopGroupCommit, Operation, answer_all
from task_server.store.postgres.blobs import check_pickles
from task_server.store.postgres.cancel import cancel_all, find_cancelled
from task_server.store.postgres.connection import (
    UNREACHABLE,
    Connection,
    Unconfirmed,
    connect,
    is_conflict,
    is_lost,
    pause,
)
from task_server.store.postgres.dependencies import follow, take_up
from task_server.store.postgres.group import Again, Group, unpark
from task_server.store.postgres.held import give_again
from task_server.store.postgres.join import know_plain
from task_server.store.postgres.known import make_kinds
from task_server.store.postgres.lease import deal_to_parked
from task_server.store.postgres.loading import read_again, reload
from task_server.store.postgres.memory import Memory, Parking
from task_server.store.postgres.parked import park_plain, tell_parked
from task_server.store.postgres.running_out import specs_with_more_memory
from task_server.store.postgres.servers import Servers
from task_server.store.postgres.sessions import exchange_all
from task_server.store.postgres.submit import submit_all
from task_server.store.rows import Ended
from task_server.store.submissions import Accepted, Submission
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

R = TypeVar("R")

GROUP_SECONDS = 12.0
"""After so long a group is given up: the database's own limit for a statement is shorter."""
MAXIMUM_TRIES = 30
PLAN_SECONDS = 1.0
PLAN_ROWS = 500
"""Plans made on tables that were nearly empty walk them, however large they have become: after so
many rows they are made anew, at most once in so many seconds."""
CLOCK_SECONDS = 0.25
"""How long the database's clock is taken to go on at the pace of ours."""
UNDONE = "the database did not take it; trying again is safe"
UNCONFIRMED = "no standby has confirmed it; trying again is safe"
FULL = "the database's disk is full: no new tasks are taken; free some space there, then try again"
_NOW = "SELECT extract(epoch FROM clock_timestamp())::float8"


class Alone(Operation[R]):
    """An operation that has its transaction to itself."""

    __slots__ = ("act", "deals")

    def __init__(self, act: Callable[[Group], Awaitable[R]], *, deals: bool = True) -> None:
        super().__init__(_nothing)
        self.act = act
        self.deals = deals
        """Parked workers may get tasks in its transaction."""


def _nothing(operation: Operation[Any]) -> None:
    """What is done is done by `act`."""


class Groups:
    """Mixed into the store: what its one writer does."""

    memory: Memory
    policy: Policy
    lease_seconds: float
    servers: Servers
    on_ended: Callable[[Sequence[Ended]], None]
    on_new_requests: Callable[[], None]
    on_full: Callable[[], bool]
    _url: str
    _test_clock: Callable[[], float] | None
    _jitter: Callable[[], float]
    _commits: LoopGroupCommit
    _connection: Connection | None
    _group: Group
    _note_time: Callable[[float], None]
    _clock: Callable[[], float]
    _told_time_at = float("-inf")
    _planned_at = float("-inf")
    _planned_rows = 0
    _tell_others: Callable[[Group], None]
    _is_busy = False
    _is_outdated = False
    """Something in memory is no longer in the database."""
    _is_unsure = False
    """The last group's end is not known: it may have been committed."""

    # ---- which operations make a group

    async def _run(self, operations: list[Operation[Any]]) -> None:
        waiting = deque(operations)
        while waiting:
            deferred = await self._until_done(_next_group(waiting))
            waiting.extendleft(reversed(deferred))

    async def _until_done(self, operations: list[Operation[Any]]) -> list[Operation[Any]]:
        """Do a group, again and again if need be; gives those that the next group has to do."""
        tries, end = 0, time.monotonic() + self.servers.patience()
        while True:
            try:
                return await self._once(operations)
            except Exception as error:
                for operation in operations:
                    operation.reset()
                if not self._may_go_on(error, tries, end):
                    return await self._fail(operations, error)
            await asyncio.sleep(pause(tries))
            tries += 1

    def _may_go_on(self, error: Exception, tries: int, end: float) -> bool:
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            # Another server made the same, or removed what nothing needed: it is seen next time.
            self._is_outdated |= isinstance(error, asyncpg.ForeignKeyViolationError)
            return tries < 5
        if isinstance(error, Again) or is_conflict(error):
            return tries < MAXIMUM_TRIES
        return is_lost(error) and time.monotonic() < end

    async def _fail(
        self, operations: list[Operation[Any]], error: Exception
    ) -> list[Operation[Any]]:
        """Tell why it did not work; where only one of many can be to blame, find it."""
        told = _told(error)
        if told is None and len(operations) > 1:
            deferred: list[Operation[Any]] = []
            for operation in operations:
                deferred += await self._until_done([operation])
            return deferred
        log.log(
            logging.ERROR if told is None else logging.WARNING,
            "a group of %d operations failed: %r",
            len(operations),
            error,
            exc_info=error if told is None else None,
        )
        if is_lost(error):
            self.servers.note_unreachable()
        is_full = isinstance(error, asyncpg.DiskFullError)
        if is_full:
            self.on_full()
        for operation in operations:
            refused = is_full and operation.is_intake
            operation.fail(StorageFull(FULL) if refused else told or Unavailable(UNDONE))
        self._publish(operations, None)
        return []

    # ---- one try

    async def _once(self, operations: list[Operation[Any]]) -> list[Operation[Any]]:
        self.servers.check()
        self.memory.bound()
        group = self._group = Group(
            self.memory,
            policy=self.policy,
            lease_seconds=self.lease_seconds,
            jitter=self._jitter,
            is_unsure=self._is_unsure,
        )
        self._is_busy = True
        try:
            async with asyncio.timeout(GROUP_SECONDS):
                for operation in operations:
                    operation.work(operation)
                settled = await self._try(group, operations)
        except BaseException as error:
            group.undo()
            await self._roll_back(error)
            raise
        finally:
            self._is_busy = False
        if settled is None:
            self._publish(operations, None)
            return []
        self._is_unsure = False
        try:
            self._publish([*settled, *operations], group)  # workers first: others wait for them
            self._tell_others(group)
            if group.leaves_waits and not self._commits.is_closed:
                self._commits.put(Alone(take_up))
        except Exception:
            log.exception("somebody could not be told of a group that is on disk")
        return group.deferred

    async def _try(
        self, group: Group, operations: list[Operation[Any]]
    ) -> list[Operation[Any]] | None:
        """Do a group and commit it; those parked that were answered. None: it was refused."""
        connection = group.connection = await self._connected()
        if self._is_outdated:
            await read_again(connection, self.memory)
            self._is_outdated = False
        await self._plan_anew(connection, sum(operation.rows for operation in operations))
        await self._prepare(group)
        await connection.execute("BEGIN")
        group.now = await self._now(connection)
        alone = operations[0]
        try:
            if isinstance(alone, Alone):
                alone.settle(await alone.act(group))
            else:
                await submit_all(group)
                await find_cancelled(group)
                await exchange_all(group)
                await cancel_all(group)
                await park_plain(group)
        except RequestError as error:
            if not isinstance(alone, Alone):
                raise  # each of many is told its own
            await connection.execute("ROLLBACK")
            group.undo()
            alone.fail(error)
            return None
        await follow(group)
        if not isinstance(alone, Alone) or alone.deals:
            await self._deal(group)
        await group.write_counts()
        await self._commit(connection, group)
        return group.keep()

    async def _plan_anew(self, connection: Connection, rows: int) -> None:
        self._planned_rows += rows
        now = time.monotonic()
        if self._planned_rows > PLAN_ROWS and now - self._planned_at > PLAN_SECONDS:
            await connection.execute("DISCARD PLANS")
            self._planned_rows, self._planned_at = 0, now

    async def _prepare(self, group: Group) -> None:
        """What has to be there before the transaction begins."""
        group.submissions = [
            each for each in group.submissions if await self._is_whole(group, *each)
        ]
        specs = [spec for submission, _ in group.submissions for spec in submission.specs]
        specs += await specs_with_more_memory(group)
        await make_kinds(group.connection, self.memory, specs)
        tokens = {token for token, *_ in (*group.leases, *group.answers)}
        for token in tokens.difference(self.memory.plain):
            now = await self._now(group.connection)
            await know_plain(group.connection, self.memory, token, now=now)

    async def _is_whole(
        self, group: Group, submission: Submission, operation: Operation[Accepted]
    ) -> bool:
        """Whether the functions by value of its new kinds are there; if not, it is refused."""
        known = self.memory.kinds_by_spec
        if not any(spec.pickle and spec not in known for spec in submission.specs):
            return True
        try:
            now = await self._now(group.connection)
            await check_pickles(group.connection, submission, now=now)
        except RequestError as error:
            operation.fail(error)
            return False
        return True

    async def _deal(self, group: Group) -> None:
        if group.is_unsure:
            await give_again(group)
        await deal_to_parked(group)
        await tell_parked(group)

    async def _commit(self, connection: Connection, group: Group) -> None:
        if group.is_durable:
            await connection.commit()
        else:
            # Renewals alone: should the database crash now, every lease gets a new term anyway.
            await connection.execute("SET LOCAL synchronous_commit = off; COMMIT")

    async def _now(self, connection: Connection) -> float:
        if self._test_clock is not None:
            return self._test_clock()
        if time.monotonic() - self._told_time_at > CLOCK_SECONDS:
            self._note_time(await connection.fetchval(_NOW))
            self._told_time_at = time.monotonic()
        return self._clock()

    # ---- the connection

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            seconds = self.servers.patience()
            self._connection = await connect(self._url, seconds=seconds)
            await reload(self._connection, self.memory)
            self._group.first_n = self._group.next_n = self.memory.next_n
        return self._connection

    async def _roll_back(self, error: BaseException) -> None:
        """Be as if the group had not been; without a connection nobody knows whether it was."""
        connection = self._connection
        if connection is None:
            return
        is_of_use = not (isinstance(error, asyncio.CancelledError) or is_lost(error))
        try:
            if is_of_use:
                async with asyncio.timeout(GROUP_SECONDS):
                    if connection.is_in_transaction():
                        await connection.execute("ROLLBACK")
                if not isinstance(error, Unconfirmed):
                    return
        except Exception as failure:
            log.debug("rolling back failed: %r", failure)
        self._is_unsure = True
        connection.terminate()
        self._connection = None

    # ---- telling

    def _publish(self, done: Sequence[Operation[Any]], group: Group | None) -> None:
        try:
            if group is not None and group.ended:
                self.on_ended(group.ended)  # whoever waits for an answer, before the workers
        finally:
            answer_all([each for each in dict.fromkeys(done) if each.is_done])
        if group is not None and group.has_new_requests:
            self.on_new_requests()
        self._let_go()

    def _let_go(self) -> None:
        """Answer those parked whose time ran out while the group was done."""
        for operation, waiter in list(self.memory.parked.items()):
            if operation.is_over:
                unpark(self.memory, waiter)
                operation.answer()

    def _end_park(self, operation: Parking) -> None:
        """A parked request waits no longer; in the middle of a group it still may get something."""
        operation.is_over = True
        waiter = self.memory.parked.get(operation)
        if waiter is not None and not self._is_busy:
            unpark(self.memory, waiter)
            operation.answer()


def _next_group(waiting: deque[Operation[Any]]) -> list[Operation[Any]]:
    group = [waiting.popleft()]
    if not isinstance(group[0], Alone):
        while waiting and not isinstance(waiting[0], Alone):
            group.append(waiting.popleft())
    return group


def _told(error: Exception) -> RequestError | None:
    """What to tell all of a group; None where one operation may be the cause."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, Unconfirmed):
        return Unavailable(UNCONFIRMED)
    if is_lost(error):
        return Unavailable(UNREACHABLE)
    if isinstance(
        error, (asyncpg.QueryCanceledError, asyncpg.InsufficientResourcesError, Again)
    ) or is_conflict(error):
        return Unavailable(UNDONE)
    return None
