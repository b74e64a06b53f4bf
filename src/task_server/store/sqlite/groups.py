"""Groups of operations: each done in one transaction, or undone as a whole; then all are told."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

from task_server.errors import RequestError, StorageFull, Unavailable
from task_server.store.group_commit import Operation, answer_all
from task_server.store.rows import Ended
from task_server.store.sqlite.connection import is_fatal, is_full
from task_server.store.sqlite.dependencies import follow
from task_server.store.sqlite.dependencies import restore as restore_waits
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.lease import deal_to_parked, write_queued
from task_server.store.sqlite.log_ahead import LogAhead
from task_server.store.sqlite.log_bound import LogBound
from task_server.store.sqlite.memory import Memory
from task_server.store.sqlite.restart import restore_sessions
from task_server.store.sqlite.sessions import unpark, unpark_session
from task_server.store.sqlite.window import read_ahead
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

BROKEN = "the database cannot be written; the server is about to restart"
UNDONE = "the database did not take it; trying again is safe"
FULL = "the server's disk is full: no new tasks are taken; free some space there, then try again"


class Groups:
    """Mixed into the store: what its writer's thread does."""

    memory: Memory
    policy: Policy
    lease_seconds: float
    on_ended: Callable[[Sequence[Ended]], None]
    on_new_requests: Callable[[], None]
    on_full: Callable[[], bool]
    watched: Callable[[], tuple[Collection[bytes], Collection[int]]]
    _on_broken: Callable[[], None]
    _clock: Callable[[], float]
    _jitter: Callable[[], float]
    _connection: sqlite3.Connection
    _log_bound: LogBound
    _log_ahead: LogAhead
    _loop: asyncio.AbstractEventLoop
    _group: Group
    _is_broken = False
    _has_worked = False
    """Tasks came or ended since the writer last had nothing to do for long."""

    def _load(self) -> None:
        self.memory = Memory(self._connection)
        restore_sessions(self.memory, now=self._clock(), lease_seconds=self.lease_seconds)
        restore_waits(self.memory)

    def _run(self, operations: list[Operation[Any]]) -> None:
        """Do a group; after a fault each operation alone, so that only the culprit fails."""
        error = self._try(operations)
        if error is not None and is_full(error):
            operations, error = self._make_room(operations, error)
        if error is None:
            return
        if len(operations) == 1 or self._is_broken or isinstance(error, sqlite3.OperationalError):
            self._fail(operations)
            return
        for operation in operations:
            operation.reset()
            if self._try([operation]) is not None:
                self._fail([operation])

    def _read_ahead(self) -> None:
        """Nothing waits: do what the next lease would have to do."""
        if self._is_broken:
            return
        try:
            read_ahead(self._connection, self.memory)
        except sqlite3.Error:
            log.exception("the next tasks cannot be read")  # who needs them will be told

    def _rest(self) -> bool:
        """Nothing came for a while: let go of pages kept for what was done, and prepare the log.

        True when there is more to prepare.
        """
        if self._is_broken:
            return False
        try:
            if self._has_worked:
                self._has_worked = False
                self._connection.execute("PRAGMA shrink_memory")
            return self._log_ahead.grow()
        except sqlite3.Error:
            log.exception("the database's memory and log are left as they are")
            return False

    def _make_room(
        self, operations: list[Operation[Any]], error: Exception
    ) -> tuple[list[Operation[Any]], Exception | None]:
        """Refuse what would fill the disk, and try the rest again if there is room for it now.

        Gives what is still to be told of, and why.
        """
        has_room = self.on_full()
        self._fail([each for each in operations if each.is_intake], StorageFull(FULL))
        rest = [each for each in operations if not each.is_intake]
        if not rest or not has_room:
            return rest, error if rest else None
        for operation in rest:
            operation.reset()
        return rest, self._try(rest)

    def _try(self, operations: list[Operation[Any]]) -> Exception | None:
        """Do a group and tell its callers; or undo it, and tell none of them."""
        if self._is_broken:
            return Unavailable(BROKEN)
        group = self._group = self._new_group()
        try:
            self._commit(group, operations)
        except Exception as error:
            if is_full(error):
                log.warning("a group of %d operations finds the disk full", len(operations))
            else:
                log.exception("a group of %d operations failed", len(operations))
            self._undo(group, operations, error)
            return error
        self._tell([*group.settled, *operations], group)  # workers first: others wait for them
        self._has_worked |= bool(group.ended or group.stored)
        self._log_bound.keep()
        return None

    def _new_group(self) -> Group:
        return Group(
            self._connection,
            self.memory,
            now=self._clock(),
            policy=self.policy,
            lease_seconds=self.lease_seconds,
            jitter=self._jitter,
            watched=self.watched()[0],
        )

    def _commit(self, group: Group, operations: list[Operation[Any]]) -> None:
        for operation in operations:
            if operation.rows:
                group.begin()
                break
        for operation in operations:
            try:
                operation.work(operation)
            except RequestError as error:  # told before anything was written
                operation.fail(error)
        follow(group)
        for waiter in [*deal_to_parked(group), *group.ending]:
            unpark(group, waiter)
        for session in group.tell:
            unpark_session(group, session)
        write_queued(group)
        group.write_counts()
        if self._connection.in_transaction:
            self._connection.execute("COMMIT")

    def _undo(self, group: Group, operations: list[Operation[Any]], error: Exception) -> None:
        """Be as if the group had not been: read the memory again, have the parked ask again."""
        parked = {*self.memory.parked, *group.settled}
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._load()
            self._is_broken = is_fatal(error)
        except Exception:
            log.exception("the database cannot be read again")
            self._is_broken = True
        if self._is_broken:
            self._loop.call_soon_threadsafe(self._on_broken)
        self._fail(list(parked.difference(operations)))

    def _fail(self, operations: list[Operation[Any]], error: RequestError | None = None) -> None:
        for operation in operations:
            operation.fail(error or Unavailable(BROKEN if self._is_broken else UNDONE))
        self._tell(operations, None)

    def _tell(self, operations: list[Operation[Any]], group: Group | None) -> None:
        done = [operation for operation in dict.fromkeys(operations) if operation.is_done]
        self._loop.call_soon_threadsafe(self._publish, done, group)

    def _publish(self, done: list[Operation[Any]], group: Group | None) -> None:
        try:
            if group is not None and group.ended:
                self.on_ended(group.ended)  # whoever waits for an answer, before the workers
        finally:
            answer_all(done)
        if group is not None and group.has_new_requests:
            self.on_new_requests()
