"""A store under test on PostgreSQL: a database of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg

from task_server.store.postgres.store import PostgresStore
from tests.store.postgres.recount import recount
from tests.store.world import JITTER, LEASE_SECONDS, World


class PostgresWorld(World):
    """A database and the one server's store that works on it now."""

    store: PostgresStore

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url
        self._looking: asyncpg.Connection | None = None

    async def open(self) -> PostgresStore:
        """A store on what the database holds now."""
        return await PostgresStore.open(
            self.url,
            clock=self.clock,
            lease_seconds=LEASE_SECONDS,
            jitter=lambda: JITTER,
        )

    async def kill(self) -> None:
        """Go on with what is committed: what the store had in memory or on its way is lost."""
        await self.store.abandon()
        # Another server would wait some seconds for the number and the lead of a dead one.
        await self.do("UPDATE servers SET alive_until = 0; UPDATE leader SET until = 0")
        await self.start()

    async def together(self, *calls: Awaitable[Any]) -> list[Any]:
        """Make these calls in one group, in this order; what each gives or raises."""
        is_taken, may_go_on = asyncio.Event(), asyncio.Event()

        async def hold(_: object) -> None:
            is_taken.set()
            await may_go_on.wait()

        holding = asyncio.ensure_future(self.store.write(hold))
        await is_taken.wait()
        waiting = [asyncio.ensure_future(call) for call in calls]
        await asyncio.sleep(0)
        may_go_on.set()
        await holding
        return await asyncio.gather(*waiting, return_exceptions=True)

    async def recount(self) -> None:
        """Check that memory and counters are what the tables say."""
        await recount(await self.looking(), self.store, is_exact=not self.has_purged)

    async def looking(self) -> asyncpg.Connection:
        """A connection that looks after the store, kept because its first look takes longest."""
        if self._looking is None:
            self._looking = await asyncpg.connect(self.url)
        return self._looking

    async def close(self) -> None:
        """Let go of the database."""
        await self.look_no_more()
        await super().close()

    async def look_no_more(self) -> None:
        """Let go of the connection that looks."""
        if self._looking is not None:
            await self._looking.close()
        self._looking = None

    async def do(self, sql: str) -> None:
        """Run statements beside the store."""
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()
