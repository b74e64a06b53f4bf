"""The upkeep that only the server on a SQLite file can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from task_server.store.records import blobs, retention
from task_server.store.records.retention import Keep
from task_server.store.records.sql import Lends, Rows, finish_now
from task_server.store.sqlite.forget import find_unused, forget
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import SERVER
from task_server.store.sqlite.rows import SqliteRows

VACUUMED_PAGES = 256
"""Given back in one transaction: 1 MiB."""
FREE_PAGES = 4096
FREE_SHARE = 0.1
"""What is kept free for what comes, of all pages; at least FREE_PAGES."""

T = TypeVar("T")


class HasGroups(Lends, Protocol):
    """The store, as its upkeep needs it."""

    def _clock(self) -> float: ...

    async def _do(self, work: Callable[[Group], T], *, rows: int = 1) -> T: ...


class Upkeep:
    """Mixed into the store."""

    server = SERVER

    async def leads(self) -> bool:
        """Whether upkeep is this server's: a file has one."""
        return True

    async def stored_bytes(self: Lends) -> int:
        """The pages in use of the file, and all blobs."""
        return await self.read(_stored_bytes)

    async def purge(self: HasGroups, numbers: Sequence[int], keep: Keep, *, now: float) -> int:
        """T14: remove what is due of these tasks; how many that were."""

        def work(group: Group) -> int:
            rows = _rows(group)
            return finish_now(retention.purge(rows, numbers, keep, now=now, server=SERVER))

        return await self._do(work)

    async def delete(self: HasGroups, owner: int | None, identifier: bytes) -> int:
        """T14 by the owner (None: an admin); a status."""

        def work(group: Group) -> int:
            rows = _rows(group)
            status = finish_now(retention.delete(rows, identifier, owner, server=SERVER))
            group.memory.has_tombstones |= status == 200
            return status

        return await self._do(work)

    async def forget_unused(self: HasGroups, *, keep_seconds: float) -> int:
        """Remove kinds, lanes, requests and functions that no task needs."""
        before = self._clock() - keep_seconds
        unused = await self.read(lambda rows: find_unused(rows, before=before))
        return await self._do(lambda group: forget(group, unused)) if unused.is_some else 0

    async def give_back_space(self: HasGroups) -> bool:
        """Give some free pages back to the disk; True when there are more."""
        free, pages = await self.read(_pages)
        over = free - int(max(FREE_PAGES, FREE_SHARE * pages))
        if over <= 0:
            return False
        await self._do(lambda group: _vacuum(group, min(over, VACUUMED_PAGES)))
        return over > VACUUMED_PAGES


def _rows(group: Group) -> Rows:
    """The connection, for work that removes tasks."""
    group.write_fresh()
    group.keep_places()
    return SqliteRows(group.connection)


async def _pages(rows: Rows) -> tuple[int, int]:
    ((free,),) = await rows.fetch("PRAGMA freelist_count")
    ((pages,),) = await rows.fetch("PRAGMA page_count")
    return free, pages


async def _stored_bytes(rows: Rows) -> int:
    free, pages = await _pages(rows)
    ((size,),) = await rows.fetch("PRAGMA page_size")
    return int((pages - free) * size) + await blobs.total_bytes(rows)


def _vacuum(group: Group, pages: int) -> None:
    for _ in range(pages):
        # It gives a page back at each step, and Python's sqlite3 takes one step.
        group.connection.execute("PRAGMA incremental_vacuum(1)")
