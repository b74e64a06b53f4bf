"""The reads of the contract, each on a reader's thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Protocol, TypeVar

from task_server.environments.lock import empty_lock
from task_server.store.records import tokens, workers
from task_server.store.rows import AnswerRow, BatchRow, TaskFilter, TaskRow
from task_server.store.sqlite import reads

T = TypeVar("T")


class Lends(Protocol):
    """What lends connections to work that reads or, rarely, writes."""

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read what is committed."""

    def look(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Read a row or two by key, without waiting."""

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Write inside the next group."""


class Reads:
    """Mixed into the store."""

    async def task(self: Lends, identifier: bytes, owner: int | None) -> TaskRow | None:
        """The task, if this owner (None: anybody) may see it."""
        return self.look(lambda connection: reads.task(connection, identifier, owner))

    async def tasks(self: Lends, wanted: TaskFilter) -> list[TaskRow]:
        """A page of tasks, newest first."""
        return await self.read(lambda connection: reads.tasks(connection, wanted))

    async def batch(self: Lends, identifier: bytes, owner: int | None) -> BatchRow | None:
        """The batch, if this owner (None: anybody) may see it."""
        return await self.read(lambda connection: reads.batch(connection, identifier, owner))

    async def batch_kinds(self: Lends, batch: int) -> dict[int, int]:
        """How many open tasks of each kind a batch has."""
        return await self.read(lambda connection: reads.batch_kinds(connection, batch))

    async def answers_in_order(self: Lends, batch: int, start: int, limit: int) -> list[AnswerRow]:
        """Members of a batch that have ended, from position `start` on, by position."""
        return await self.read(
            lambda connection: reads.answers_in_order(connection, batch, start, limit)
        )

    async def answers_as_ended(self: Lends, batch: int, after: int, limit: int) -> list[AnswerRow]:
        """Members of a batch that ended after place `after`, in the order they ended."""
        return await self.read(
            lambda connection: reads.answers_as_ended(connection, batch, after, limit)
        )

    async def logs(self: Lends, number: int) -> list[tuple[int, bytes]]:
        """What a task's attempts printed: (attempt, log), first attempt first."""
        return await self.read(lambda connection: reads.logs(connection, number))

    async def environment(self: Lends, digest: str) -> tuple[str, str, float] | None:
        """Python, lock and moment of an environment."""
        return self.look(lambda connection: reads.environment(connection, digest))

    async def open_requests(self: Lends, now: float) -> list[tuple[str, str, int]]:
        """Environment requests to lock now: text, Python, tries so far."""
        return await self.read(lambda connection: reads.open_requests(connection, now))

    async def keep_empty_lock(self: Lends, python: str) -> None:
        """Store the lock of the empty environment of a Python."""
        lock = empty_lock(python)
        await self.write(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO environments (environment, python, lock, created_at)"
                " VALUES (?, ?, ?, unixepoch())",
                (lock.digest, python, lock.text),
            )
        )

    async def lock_later(self: Lends, text: str, *, at: float) -> None:
        """An environment request could not be locked now: not before `at` again."""
        await self.write(
            lambda connection: connection.execute(
                "UPDATE environment_requests SET tries = tries + 1, try_at = ? WHERE text = ?",
                (at, text),
            )
        )

    async def token(self: Lends, digest: bytes) -> tokens.Token | None:
        """The valid token with that digest."""
        return self.look(lambda connection: tokens.find(connection, digest))

    async def owner_named(self: Lends, name: str) -> int:
        """The owner of that name, made if need be."""
        return await self.write(lambda connection: tokens.owner_named(connection, name))

    async def keep_blob(self: Lends, name: str, owner: int, size: int) -> None:
        """An owner has a blob."""
        await self.write(
            lambda connection: connection.execute(
                "INSERT OR IGNORE INTO blobs (digest, owner, size, created_at)"
                " VALUES (?, ?, ?, unixepoch())",
                (name, owner, size),
            )
        )

    async def has_blob(self: Lends, name: str, owner: int) -> bool:
        """Whether an owner has a blob."""

        def find(connection: sqlite3.Connection) -> bool:
            row = connection.execute(
                "SELECT 1 FROM blobs WHERE digest = ? AND owner = ?", (name, owner)
            ).fetchone()
            return row is not None

        return await self.read(find)

    async def workers(self: Lends) -> list[workers.WorkerRow]:
        """All workers that ever joined, newest first."""
        return await self.read(workers.listed)
