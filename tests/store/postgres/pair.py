"""Two servers on one database, with one clock."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg

from task_server.store.attempts import Dealt
from task_server.store.postgres.store import PostgresStore
from tests.store.postgres.recount import recount_tables
from tests.store.postgres.world import PostgresWorld
from tests.store.world import Worker

PATIENCE_SECONDS = 10.0


class Pair:
    """Two worlds; each has its own server, users and workers go to either."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.one, self.two = PostgresWorld(url), PostgresWorld(url)
        self.two.clock = self.one.clock
        self.two._sessions = self.one._sessions

    async def start(self) -> None:
        """Start both, and wait until they know of each other."""
        await self.one.start()
        await self.two.start()
        await renew(self.one.store)
        assert self.one.store.servers.has_others and self.two.store.servers.has_others

    async def close(self) -> None:
        """Check what was counted, and stop both."""
        try:
            has_purged = self.one.has_purged or self.two.has_purged
            await recount_tables(self.url, is_exact=not has_purged)
        finally:
            await self.one.close()
            await self.two.close()

    def hear_all(self) -> None:
        """Let both look for what the other has done, as after news of everything."""
        for world in (self.one, self.two):
            world.store._hear_gap()


def moved(worker: Worker, world: PostgresWorld) -> Worker:
    """The worker, whose next exchange goes to another server."""
    worker.world = world
    return worker


async def renew(store: PostgresStore) -> None:
    """Have a server renew now, and see who else there is and who leads."""
    for _ in range(50):
        try:
            await store.servers._renew()
            return
        except (asyncpg.InterfaceError, asyncpg.PostgresError, OSError):
            await asyncio.sleep(0.02)  # it was about to, by itself
    raise AssertionError("it cannot renew")


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    for _ in range(int(PATIENCE_SECONDS / 0.005)):
        if is_so():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it did not come to be so")


async def heard_of(worker: Worker, count: int) -> list[Dealt]:
    """Lease what was submitted at another server, once the worker's has looked there."""
    for _ in range(int(PATIENCE_SECONDS / 0.02)):
        dealt = await worker.take(count)
        if dealt:
            return dealt
        await asyncio.sleep(0.02)
    raise AssertionError("it has not heard of any task")


async def outcomes(*calls: Awaitable[Any]) -> list[Any]:
    """What calls made at once give or raise."""
    return await asyncio.gather(*calls, return_exceptions=True)
