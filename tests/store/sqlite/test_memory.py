"""What one server keeps in memory: bounded, whatever comes."""

import asyncio

import pytest

from task_server.protocol.workers import EnvironmentState
from task_server.scheduling.lanes import WINDOW
from task_server.store.sessions import ExchangeRequest
from task_server.store.sqlite.sessions import MAXIMUM_ENVIRONMENTS
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import drain, new_task, spec, succeeded


async def test_many_lanes_together_keep_a_bounded_window(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.sqlite.sweep.WINDOWED", 100)
    for priority in range(4):
        await world.submit(count=50, kind=spec(priority=priority))

    await world.store.expire()

    await world.recount()
    worker = await world.worker(slots=500)
    order = await drain(worker)
    assert len(order) == 200


async def test_the_next_of_a_long_lane_are_read_while_nothing_else_is_to_be_done(
    world: SqliteWorld,
) -> None:
    for _ in range(3):
        await world.submit(count=1000)
    worker = await world.worker(slots=5000)
    first = [dealt.number for dealt in await worker.take(900)]
    (lane,) = world.store.memory.lanes.values()

    async with asyncio.timeout(10):
        while len(lane.window.entries) < WINDOW:  # noqa: ASYNC110 - the writer tells nobody
            await asyncio.sleep(0.01)

    assert len(lane.window.entries) == WINDOW
    rest = [dealt.number for dealt in await worker.take(4000)]
    assert first + rest == sorted({*first, *rest})
    assert len(rest) == 2100


async def test_running_tasks_past_their_start_by_do_not_hold_up_others(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.sqlite.sweep.LIMIT", 5)
    running = [new_task(start_by=world.clock.now + 1) for _ in range(10)]
    await world.submit(*running)
    worker = await world.worker()
    await worker.take(10)
    waiting = new_task(start_by=world.clock.now + 2)
    await world.submit(waiting)

    await world.advance(3)

    assert await world.state(waiting.id) == "expired"


async def test_cancels_leave_nothing_behind_for_it(world: SqliteWorld) -> None:
    accepted = await world.submit(count=20)
    for _ in accepted.ids:
        await world.plain_lease()

    assert await world.store.cancel(1, accepted.ids) == [200] * 20

    session = world.store.memory.sessions["plain-9"]
    assert (session.stops, session.leases, session.unseen) == ([], {}, [])


async def test_large_arguments_do_not_stay_in_memory(world: SqliteWorld) -> None:
    await world.submit(*[new_task(payload=b"x" * 60_000) for _ in range(3)])

    (lane,) = world.store.memory.lanes.values()

    assert [entry.payload for entry in lane.window.entries] == [None] * 3
    assert [entry.size for entry in lane.window.entries] == [60_000] * 3


async def test_ended_sessions_are_forgotten(world: SqliteWorld) -> None:
    worker = await world.worker()
    silent = await world.worker()
    for _ in range(5):
        await worker.join()
    await worker.exchange()
    assert len(world.store.memory.sessions_by_row) == 2

    await world.advance(3700)

    assert silent.session not in world.store.memory.sessions
    assert len(world.store.memory.sessions_by_row) == 0


async def test_idle_lanes_are_not_looked_at(world: SqliteWorld) -> None:
    for priority in range(5):
        await world.submit(kind=spec(priority=priority))
    worker = await world.worker()

    await worker.report(*map(succeeded, await worker.take(5)))
    await world.submit()
    await worker.take(5)

    assert world.store.memory.active == {1}


async def test_the_environments_of_a_session_are_bounded(world: SqliteWorld) -> None:
    worker = await world.worker()
    states = [EnvironmentState(f"{n:064x}", "ready") for n in range(MAXIMUM_ENVIRONMENTS + 50)]

    await world.store.exchange(
        ExchangeRequest(worker.id or "", worker.session, 1, 1, 0, 0, 0.0, False, [], None, states)
    )

    kept = world.store.memory.sessions[worker.session].environments
    assert list(kept) == [state.digest for state in states[50:]]


async def test_kinds_are_read_again_as_needed(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.sqlite.memory.MAXIMUM_KINDS", 3)
    kinds = [spec(tags=(str(n),)) for n in range(10)]
    for kind in kinds * 2:
        await world.submit(kind=kind)
    worker = await world.worker()

    dealt = await worker.take(100)

    assert len(world.store.memory.kinds) <= 3
    assert [each.kind.spec for each in dealt] == kinds * 2
    assert await worker.report(*map(succeeded, dealt)) == [200] * 20


async def test_load_is_gone_with_the_tasks(world: SqliteWorld) -> None:
    await world.submit(count=5)
    assert list(world.store.memory.load.values()) == [5]
    worker = await world.worker()

    await worker.take(5)

    assert world.store.memory.load == {}
