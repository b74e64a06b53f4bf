"""Where a task stands, as the database has it."""

from __future__ import annotations

from task_server.store.attempts import Used
from task_server.store.records.standings import Place
from tests.store.world import World, failed, new_task, released, spec, succeeded


async def place(world: World, task: bytes) -> Place:
    row = await world.task(task)
    found = await world.store.place(row.number)
    assert found is not None
    return found


async def test_the_owners_tasks_that_come_first_are_counted(world: World) -> None:
    first = await world.submit(count=2)
    world.clock.advance(1)
    late = await world.submit(kind=spec(tags=("x",)))
    world.clock.advance(1)
    urgent = await world.submit(kind=spec(priority=2))
    await world.submit(kind=spec(owner=2, priority=9))

    before = [(await place(world, task)).before for task in (*first.ids, *late.ids, *urgent.ids)]

    assert before == [1, 2, 3, 0]


async def test_what_owners_were_charged_is_told(world: World) -> None:
    worker = await world.worker()
    await world.submit()
    await worker.report(succeeded(await worker.take_one(), used=Used(run_seconds=7.0)))

    assert world.store.charged() == {1: 7.0}


async def test_what_a_task_waits_for_is_told(world: World) -> None:
    kind = spec(max_attempts=2, backoff=3600.0)
    first = (await world.submit(kind=kind)).ids[0]
    moment = world.clock.now + 99
    second, third = new_task(after=(first,)), new_task(run_after=moment)
    await world.submit(second, third)
    worker = await world.worker()
    await worker.report(failed(await worker.take_one()))

    assert (await place(world, first)).errors == 1
    assert (await place(world, second.id)).after == [first]
    assert (await place(world, third.id)).run_after == moment
    assert (await place(world, third.id)).delayed_until == moment


async def test_what_runs_is_told_with_its_worker(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    dealt = await worker.take(2)

    (session,) = await world.store.sessions()
    kind = dealt[0].kind.spec
    assert await world.store.held() == [(session.worker, kind, world.clock.now)] * 2


async def test_workers_that_could_not_build_an_environment_are_told_for_a_while(
    world: World,
) -> None:
    await world.submit()
    worker = await world.worker()
    await worker.report(released(await worker.take_one(), unfit=True))
    (session,) = await world.store.sessions()
    environment = "e" * 64

    now = world.clock.now
    assert await world.store.broken(environment, now=now) == {session.worker}
    assert await world.store.broken("f" * 64, now=now) == set()
    assert await world.store.broken(environment, now=now + 3600) == set()


async def test_a_task_that_is_gone_stands_nowhere(world: World) -> None:
    assert await world.store.place(99) is None
