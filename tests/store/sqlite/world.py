"""A store under test on SQLite: a file in a folder of its own."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from task_server.store.sqlite.store import SqliteStore
from tests.store.sqlite.recount import recount
from tests.store.world import JITTER, LEASE_SECONDS, World


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A folder for a database: many fsyncs and no power cuts, so memory will do if there is any."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        made = Path(folder) / "database"
        made.mkdir()
        yield made


class SqliteWorld(World):
    """A file and the store that works on it now."""

    store: SqliteStore
    forgets_phases = True

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self._copies = itertools.count(1)
        self._dead: list[SqliteStore] = []

    async def open(self) -> SqliteStore:
        """A store on what the file holds now."""
        return SqliteStore(
            self.folder / "tasks.db",
            clock=self.clock,
            lease_seconds=LEASE_SECONDS,
            jitter=lambda: JITTER,
        )

    async def close(self) -> None:
        """Let go of the file, and of those left behind."""
        for store in [*self._dead, self.store]:
            await store.close()

    async def kill(self) -> None:
        """Go on with a copy of what is on disk now: the memory is lost."""
        copy = self.folder.parent / f"copy-{next(self._copies)}"
        shutil.copytree(self.folder, copy)
        self._dead.append(self.store)
        self.folder = copy
        await self.start()

    async def together(self, *calls: Awaitable[Any]) -> list[Any]:
        """Make these calls in one group, in this order; what each gives or raises."""
        is_taken, may_go_on = threading.Event(), threading.Event()

        async def hold(_: object) -> None:
            is_taken.set()
            may_go_on.wait(10)

        holding = asyncio.ensure_future(self.store.write(hold))
        await asyncio.to_thread(is_taken.wait, 10)
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        may_go_on.set()
        await holding
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def recount(self) -> None:
        """Check that memory and counters are what the tables say."""
        await recount(self.store, is_exact=not self.has_purged)
