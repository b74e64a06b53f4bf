"""Two servers on one database beside the executable model: each call goes to one of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import rule

from task_server.store.postgres.loading import look_for_lanes, refresh
from task_server.store.postgres.store import PostgresStore
from tests.postgres import Databases
from tests.store.postgres.pair import renew
from tests.store.postgres.recount import look_for_faults
from tests.store.postgres.world import PostgresWorld
from tests.store.test_model import RUNS, TIMEOUT_SECONDS, StoreMachine, run
from tests.store.world import World


class Either:
    """A store whose every verb is done by one of two, which has heard of all before it."""

    def __init__(self, stores: Callable[[], list[PostgresStore]]) -> None:
        self._stores = stores
        self._chance = random.Random(0)

    def __getattr__(self, verb: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            store = self._chance.choice(self._stores())
            await catch_up(store)
            return await getattr(store, verb)(*arguments, **options)

        return call

    async def expire(self) -> None:
        """Only the leader sweeps."""
        for store in self._stores():
            await catch_up(store)
            await store.expire()


async def catch_up(store: PostgresStore) -> None:
    """Hear of all that the other has done."""
    memory = store.memory

    async def work(rows: Any) -> None:
        await refresh(rows, memory)
        await look_for_lanes(rows, memory)

    await store.read(work)
    for lane in memory.active:
        memory.wake_lane(lane)
        memory.hint(lane).cost = 0.0  # to look at the very start again is always worth it


class TwoServers(PostgresWorld):
    """A database with two servers."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.opened: list[PostgresStore] = []

    async def start(self) -> None:
        self.opened = [await self.open(), await self.open()]
        self.store = Either(lambda: self.opened)  # type: ignore[assignment]  # as good as one

    async def close(self) -> None:
        await self.look_no_more()
        for store in self.opened:
            await store.close()

    async def recount(self) -> None:
        await look_for_faults(await self.looking())

    async def restart_one(self, which: int, *, is_killed: bool) -> None:
        """One server ends, and another starts; the leases of both are as they were."""
        if is_killed:
            await self.opened[which].abandon()
            # Others would wait some seconds until they know that it is dead.
            await self.do("UPDATE leader SET until = 0")
            number = self.opened[which].servers.number
            await self.do(f"UPDATE servers SET alive_until = 0 WHERE server = {number}")
        else:
            await self.opened[which].close()
        self.opened[which] = await self.open()
        for store in (*self.opened, *self.opened):
            await renew(store)  # the new one knows then that the other lives, and one leads


class PairMachine(StoreMachine):
    """Drives two servers and the model side by side."""

    world: TwoServers

    @rule(is_killed=st.booleans(), which=st.integers(0, 1))
    def restart(self, is_killed: bool, which: int) -> None:
        async def work() -> None:
            await self.world.restart_one(which, is_killed=is_killed)
            await self.compare()

        self.do(work())


@pytest.mark.slow
@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_two_servers_do_what_the_model_does(databases: Databases) -> None:
    @contextmanager
    def new_world() -> Iterator[World]:
        name = databases.make()
        try:
            yield TwoServers(databases.cluster.url(name))
        finally:
            databases.drop(name)

    def machine() -> AbstractContextManager[World]:
        return new_world()

    run(machine, max(RUNS // 8, 1), PairMachine)
