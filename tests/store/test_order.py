"""Many tasks in a lane: in order, whatever leaves and comes back."""

import pytest

from task_server.protocol.ids import new_ids
from task_server.scheduling.lanes import WINDOW
from tests.store.world import World, drain, ids, new_task, released, succeeded


@pytest.mark.parametrize("restart_after", [None, 1, 4])
async def test_more_than_a_window_comes_in_order(world: World, restart_after: int | None) -> None:
    tasks = [new_task(each) for each in new_ids(2 * WINDOW + 700)]
    await world.submit(*tasks[:1500])
    await world.submit(*tasks[1500:])
    worker = await world.worker(slots=500)
    order: list[bytes] = []
    for _ in range(restart_after or 0):
        dealt = await worker.take(300)
        order += ids(dealt)
        await worker.report(*map(succeeded, dealt))
    if restart_after:
        await world.kill()

    order += await drain(worker)

    assert order == [task.id for task in tasks]


async def test_what_is_given_back_below_the_bound_comes_first(world: World) -> None:
    tasks = [new_task(each) for each in new_ids(2 * WINDOW)]
    await world.submit(*tasks)
    worker = await world.worker(slots=5000)
    given = await worker.take(WINDOW + 100)
    await worker.report(*map(released, given[:50]))

    order = await drain(worker)

    assert order == [task.id for task in tasks[:50] + tasks[WINDOW + 100 :]]


async def test_due_tasks_find_their_place_before_a_long_queue(world: World) -> None:
    late = [new_task(run_after=world.clock.now + 5) for _ in range(30)]
    await world.submit(*late)
    tasks = [new_task(each) for each in new_ids(WINDOW + 200)]
    world.clock.advance(10)
    await world.submit(*tasks)
    world.clock.advance(-4)
    await world.store.expire()
    worker = await world.worker(slots=300)

    order = await drain(worker)

    assert order[:30] == [task.id for task in late]
    assert order[30:] == [task.id for task in tasks]


async def test_tasks_made_due_in_the_group_that_fills_the_window(world: World) -> None:
    late = [new_task(run_after=world.clock.now + 5) for _ in range(30)]
    await world.submit(*late)
    full = [new_task(each) for each in new_ids(WINDOW)]
    world.clock.advance(10)

    await world.together(world.submit(*full), world.store.expire())

    await world.recount()
    worker = await world.worker(slots=5000)
    assert await drain(worker) == [task.id for task in late + full]


async def test_a_cancelled_head_does_not_hide_what_is_behind(world: World) -> None:
    tasks = [new_task(each) for each in new_ids(WINDOW + 50)]
    await world.submit(*tasks)
    head = [task.id for task in tasks[:WINDOW]]
    assert await world.store.cancel(1, head) == [200] * WINDOW
    worker = await world.worker()

    order = await drain(worker)

    assert order == [task.id for task in tasks[WINDOW:]]
