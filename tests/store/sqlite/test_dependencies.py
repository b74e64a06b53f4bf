"""Many that wait for one: no group does all of them, and none is forgotten."""

from itertools import pairwise

import pytest

from task_server.protocol.ids import new_ids
from tests.store.retained import KEEP, delete
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import failed, new_task, spec, succeeded

LIMIT = 5


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_server.store.sqlite.dependencies.LIMIT", LIMIT)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_success", [False, True])
async def test_what_one_group_leaves_the_next_ones_do(
    world: SqliteWorld, is_killed: bool, is_success: bool
) -> None:
    first = new_task()
    waiting = [new_task(each, after=(first.id,)) for each in new_ids(23)]
    await world.submit(first, *waiting)
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(succeeded(dealt) if is_success else failed(dealt))
    states = [await world.state(each.id) for each in waiting]
    assert 0 < states.count("delayed") < 23
    if is_killed:
        await world.kill()

    await world.store.expire()

    states = [await world.state(each.id) for each in waiting]
    assert set(states) == {"queued" if is_success else "cancelled"}
    assert world.store.memory.awaited == world.store.memory.unfollowed == set()


async def test_a_long_chain_is_cancelled_to_its_end(world: SqliteWorld) -> None:
    tasks = [new_task(each) for each in new_ids(40)]
    for before, task in pairwise(tasks):
        task.after = (before.id,)
    await world.submit(*tasks)

    await world.store.cancel(1, [tasks[0].id])
    await world.store.expire()

    assert {await world.state(each.id) for each in tasks} == {"cancelled"}


async def test_those_that_were_not_yet_cancelled_wait_for_a_retry(world: SqliteWorld) -> None:
    first = new_task()
    waiting = [new_task(each, after=(first.id,)) for each in new_ids(13)]
    await world.submit(first, *waiting)
    await world.store.cancel(1, [first.id])
    await world.store.retry(1, [first.id])
    states = [await world.state(each.id) for each in waiting]
    left = states.count("delayed")
    assert 0 < left < 13

    await world.store.expire()
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))
    await world.store.expire()

    assert len(await worker.take(20)) == left


async def test_what_some_wait_for_still_is_neither_deleted_nor_purged(
    world: SqliteWorld,
) -> None:
    first = new_task()
    await world.submit(first, kind=spec(keep=0.0))
    waiting = [new_task(each, after=(first.id,)) for each in new_ids(13)]
    await world.submit(*waiting)
    await world.store.cancel(1, [first.id])

    assert await delete(world, 1, first.id) == 409
    (row,) = [await world.task(first.id)]
    assert await world.store.purge([row.number], KEEP, now=world.clock.now) == 0
    await world.store.expire()

    assert {await world.state(each.id) for each in waiting} == {"cancelled"}
    assert await delete(world, 1, first.id) == 200


async def test_nothing_is_looked_up_where_nobody_waits(world: SqliteWorld) -> None:
    first = new_task()
    await world.submit(first, new_task(after=(first.id,)))
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))

    assert world.store.memory.awaited == set()
