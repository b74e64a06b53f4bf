"""The sweep of a server whose clock is set: the leases learn of it before any is taken away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from task_server.errors import Unavailable
from task_server.server.clock import Clock
from task_server.server.upkeep.expire import SWEEP_SECONDS, Expiry
from tests.store import world as worlds
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import LEASE_SECONDS, succeeded

HOUR = 3600.0
jumps = pytest.mark.parametrize("by", [HOUR, -HOUR, 48 * HOUR])


class Machine(worlds.Clock):
    """A machine's wall and monotonic clocks, and the server's clock on them."""

    def __init__(self) -> None:
        self.wall = worlds.START
        self.monotonic = 50.0
        self.clock = Clock(lambda: self.wall, lambda: self.monotonic)

    @property
    def now(self) -> float:  # type: ignore[override]  # a value there, worked out here
        """The server's time."""
        return self.clock()

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.monotonic += seconds


class Server(SqliteWorld):
    """A store that goes by a server's clock, and that server's sweep."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.clock: Machine = Machine()

    async def start(self) -> None:
        await super().start()
        self.expiry = Expiry(self.store, self.clock.clock)

    async def passes(self, seconds: float) -> None:
        """Let time pass, sweeping as a server does."""
        while seconds > 0:
            self.clock.advance(min(SWEEP_SECONDS, seconds))
            seconds -= SWEEP_SECONDS
            await self.expiry.sweep()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path)
    await server.start()
    yield server
    await server.recount()
    await server.close()


@jumps
async def test_a_lease_outlives_the_setting_of_the_clock(server: Server, by: float) -> None:
    worker = await server.worker()
    await server.submit()
    dealt = await worker.take_one()
    await server.passes(LEASE_SECONDS - 4)

    server.clock.wall += by
    await server.passes(LEASE_SECONDS - 4)

    assert await worker.report(succeeded(dealt)) == [200]


@jumps
async def test_a_lease_does_not_hang_when_the_clock_was_set(server: Server, by: float) -> None:
    worker = await server.worker()
    await server.submit()
    dealt = await worker.take_one()

    server.clock.wall += by
    await server.passes(LEASE_SECONDS + 2 * SWEEP_SECONDS)

    assert await server.state(dealt.id) in ("delayed", "queued")


@jumps
async def test_times_are_those_of_the_wall_again(server: Server, by: float) -> None:
    server.clock.wall += by
    await server.passes(SWEEP_SECONDS)

    (task,) = (await server.submit()).ids

    assert (await server.task(task)).submitted_at == server.clock.wall


async def test_a_small_difference_is_no_jump(server: Server) -> None:
    before = server.clock.now

    server.clock.wall += 4.0
    await server.expiry.sweep()

    assert server.clock.now == before


@jumps
async def test_a_store_that_could_not_be_told_is_told_before_the_next_sweep(
    server: Server, by: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await server.worker()
    await server.submit()
    dealt = await worker.take_one()

    async def refuse(*, by: float) -> None:
        raise Unavailable("the disk is full")

    with monkeypatch.context() as failing:
        failing.setattr(server.store, "extend_leases", refuse)
        server.clock.wall += by
        for _ in range(3):
            with pytest.raises(Unavailable):
                await server.expiry.sweep()
    await server.expiry.sweep()

    assert await server.state(dealt.id) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


async def test_a_clock_that_goes_to_and_fro_changes_nothing(server: Server) -> None:
    worker = await server.worker()
    await server.submit()
    dealt = await worker.take_one()

    for by in (HOUR, -2 * HOUR, 48 * HOUR, -47 * HOUR):
        server.clock.wall += by
        await server.passes(SWEEP_SECONDS)

    assert await worker.report(succeeded(dealt)) == [200]
    task = await server.task(dealt.id)
    assert task.started_at is not None and task.ended_at is not None
    assert task.submitted_at <= task.started_at <= task.ended_at
