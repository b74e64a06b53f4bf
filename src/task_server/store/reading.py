"""The cold part of the contract, in the SQL that both databases share."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from task_server.store.explaining import Explaining
from task_server.store.keeping import Keeping
from task_server.store.kinds import Kind
from task_server.store.learning import Learning
from task_server.store.ordering import Ordering
from task_server.store.records import (
    batches,
    blobs,
    environments,
    packages,
    refreshes,
    tasks,
    tokens,
    workers,
)
from task_server.store.records.packages import Package
from task_server.store.records.sql import Lends
from task_server.store.rows import AnswerRow, BatchRow, TaskFilter, TaskRow


class Reads(Keeping, Ordering, Learning, Explaining):
    """Mixed into the stores."""

    async def task(self: Lends, identifier: bytes, owner: int | None) -> TaskRow | None:
        """The task, if this owner (None: anybody) may see it."""
        return await self.look(lambda rows: tasks.find(rows, identifier, owner))

    async def tasks(self: Lends, wanted: TaskFilter) -> list[TaskRow]:
        """A page of tasks, newest first."""
        return await self.read(lambda rows: tasks.listed(rows, wanted))

    async def logs(self: Lends, number: int) -> list[tuple[int, bytes]]:
        """What a task's attempts printed: (attempt, log), first attempt first."""
        return await self.read(lambda rows: tasks.logs(rows, number))

    async def batch(self: Lends, identifier: bytes, owner: int | None) -> BatchRow | None:
        """The batch, if this owner (None: anybody) may see it."""
        return await self.read(lambda rows: batches.find(rows, identifier, owner))

    async def batch_kinds(self: Lends, batch: int) -> list[tuple[Kind, int]]:
        """How many open tasks of each kind a batch has."""
        return await self.read(lambda rows: batches.kinds(rows, batch))

    async def answers_in_order(self: Lends, batch: int, start: int, limit: int) -> list[AnswerRow]:
        """Members of a batch that have ended, from position `start` on, by position."""
        return await self.read(lambda rows: batches.answers_in_order(rows, batch, start, limit))

    async def answers_as_ended(
        self: Lends, batch: int, after: Mapping[int, int], limit: int
    ) -> list[AnswerRow]:
        """Members of a batch that ended after these places (server -> place)."""
        return await self.read(lambda rows: batches.answers_as_ended(rows, batch, after, limit))

    async def environment(self: Lends, digest: str) -> tuple[str, str, float] | None:
        """Python, lock and moment of an environment."""
        return await self.look(lambda rows: environments.find(rows, digest))

    async def open_requests(self: Lends, now: float) -> list[tuple[str, str, int]]:
        """Environment requests to lock now: text, Python, tries so far."""
        return await self.read(lambda rows: environments.open_requests(rows, now))

    async def lock_later(self: Lends, text: str, *, at: float, reason: str, counts: bool) -> None:
        """An environment request could not be locked now for this reason: not before `at` again."""
        await self.write(
            lambda rows: environments.lock_later(rows, text, at=at, reason=reason, counts=counts)
        )

    async def keep_empty_lock(self: Lends, python: str, *, now: float) -> None:
        """Store the lock of the empty environment of a Python."""
        await self.write(lambda rows: environments.keep_empty(rows, python, now=now))

    async def token(self: Lends, digest: bytes) -> tokens.Token | None:
        """The valid token with that digest."""
        return await self.look(lambda rows: tokens.find(rows, digest))

    async def owner_named(self: Lends, name: str) -> int:
        """The owner of that name, made if need be."""
        return await self.write(lambda rows: tokens.owner_named(rows, name))

    async def keep_blob(
        self: Lends, name: str, owner: int, *, size: int, now: float, began: float | None = None
    ) -> None:
        """An owner has a blob, whose content was stored since `began` (None: `now`)."""
        await self.write(
            lambda rows: blobs.keep(rows, name, owner, size=size, now=now, began=began)
        )

    async def has_blob(self: Lends, name: str, owner: int) -> bool:
        """Whether an owner has a blob."""
        return await self.look(lambda rows: blobs.has(rows, name, owner))

    async def workers(self: Lends) -> list[workers.WorkerRow]:
        """All workers that ever joined, newest first."""
        return await self.read(workers.listed)

    async def refresh(
        self: Lends, request: str, *, environment: str, python: str, lock: str, now: float
    ) -> None:
        """From now on tasks of this request (its text) get that lock."""
        await self.write(
            lambda rows: refreshes.add(
                rows, request, environment=environment, python=python, lock=lock, now=now
            )
        )

    async def refreshed(self: Lends) -> dict[str, str]:
        """Text of a request -> digest of the lock that was made anew for it."""
        return await self.read(refreshes.listed)

    async def refresh_mark(self: Lends) -> tuple[int, float]:
        """Changes whenever a lock is refreshed."""
        return await self.read(refreshes.mark)

    async def add_package(self: Lends, package: Package, *, began: float) -> bool:
        """See `Store.add_package`."""
        return await self.write(lambda rows: packages.add(rows, package, began=began))

    async def packages(self: Lends, *, owner: int | None, name: str | None = None) -> list[Package]:
        """Wheels of an owner (None: of all), of one name (None: of all), oldest first."""
        return await self.read(lambda rows: packages.listed(rows, owner=owner, name=name))

    async def packages_with(self: Lends, digests: Collection[str]) -> list[Package]:
        """Wheels that have one of these contents, whoever uploaded them."""
        return await self.read(lambda rows: packages.with_content(rows, digests))

    async def remove_package(self: Lends, *, owner: int, name: str, version: str | None) -> int:
        """Forget the wheels of a name, or of one version of it; how many."""
        return await self.write(
            lambda rows: packages.remove(rows, owner=owner, name=name, version=version)
        )

    async def package_contents(self: Lends) -> list[tuple[int, str, str, str]]:
        """Owner, name, file name and digest of every wheel, oldest first."""
        return await self.read(packages.contents)

    async def package_mark(self: Lends) -> tuple[int, int]:
        """Changes whenever a wheel comes or goes."""
        return await self.read(packages.mark)
