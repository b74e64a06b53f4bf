"""T11 and T13: a task's owner ends it, or has it tried again."""

import asyncio

import pytest

from task_server.protocol.ids import new_id
from tests.store.world import World, failed, new_task, released, spec, succeeded


async def in_state(world: World, state: str) -> bytes:
    """A task of owner 1 that got there."""
    now = world.clock.now
    if state == "delayed":
        return (await world.submit(new_task(run_after=now + 9))).ids[0]
    if state == "expired":
        task = new_task(run_after=now + 9, start_by=now + 1)
        await world.submit(task)
        await world.advance(2)
        return task.id
    (task_id,) = (await world.submit()).ids
    worker = await world.worker()
    if state != "queued":
        dealt = await worker.take_one()
    if state == "succeeded":
        await worker.report(succeeded(dealt))
    if state == "failed":
        await worker.report(failed(dealt))
    if state == "cancelled":
        await world.store.cancel(1, [task_id])
    return task_id


@pytest.mark.parametrize(
    "state,status",
    [
        ("queued", 200),
        ("delayed", 200),
        ("running", 200),
        ("succeeded", 409),
        ("failed", 409),
        ("cancelled", 200),
        ("expired", 409),
    ],
)
async def test_what_is_open_is_cancelled(world: World, state: str, status: int) -> None:
    task = await in_state(world, state)
    assert await world.state(task) == state

    assert await world.store.cancel(1, [task]) == [status]

    assert await world.state(task) == ("cancelled" if status == 200 else state)
    assert await world.store.cancel(1, [task]) == [status], "again, the same"


@pytest.mark.parametrize(
    "state,status",
    [
        ("queued", 409),
        ("delayed", 409),
        ("running", 409),
        ("succeeded", 409),
        ("failed", 200),
        ("cancelled", 200),
        ("expired", 200),
    ],
)
async def test_what_ended_without_an_answer_is_tried_again(
    world: World, state: str, status: int
) -> None:
    task = await in_state(world, state)

    assert await world.store.retry(1, [task]) == [status]

    row = await world.task(task)
    assert row.generation == (status == 200)
    assert row.state.word == ("queued" if status == 200 else state)


async def test_only_owner_and_admin_may(world: World) -> None:
    first, second = (await world.submit(count=2)).ids

    assert await world.store.cancel(2, [first]) == [404]
    assert await world.store.retry(2, [first]) == [404]
    assert await world.store.cancel(None, [first, new_id(), second]) == [200, 404, 200]
    assert await world.store.retry(None, [first]) == [200]


async def test_a_cancel_is_final(world: World) -> None:
    (task,) = (await world.submit()).ids
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.cancel(1, [task])

    assert await worker.report(succeeded(dealt), released(dealt)) == [410, 409]

    assert await worker.take(5) == []
    await world.advance(100)
    assert await world.state(task) == "cancelled"
    assert [each.state.word for each in world.ended] == ["cancelled"]


async def test_a_task_cancelled_in_the_group_that_submits_it_is_never_leased(world: World) -> None:
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=0.2))
    await asyncio.sleep(0.01)
    task = new_task()

    _, statuses = await world.together(world.submit(task), world.store.cancel(1, [task.id]))

    assert statuses == [200]
    assert await parked == []
    assert await world.state(task.id) == "cancelled"


async def test_a_task_is_cancelled_once_however_often_it_is_named(world: World) -> None:
    (task,) = (await world.submit()).ids

    assert await world.store.cancel(1, [task, task]) == [200, 200]

    assert len(world.ended) == 1


async def test_a_new_generation_begins_at_zero(world: World) -> None:
    (task,) = (await world.submit(kind=spec(max_attempts=2))).ids
    worker = await world.worker()
    for generation in range(2):
        for attempt in range(2):
            await world.advance(100)
            dealt = await worker.take_one()
            assert dealt.attempt == 2 * generation + attempt + 1, "attempts never fall"
            await worker.report(failed(dealt))
        assert await world.state(task) == "failed"
        await world.store.retry(1, [task])

    dealt = await worker.take_one()
    assert await worker.report(succeeded(dealt)) == [200]
    row = await world.task(task)
    assert (row.state.word, row.generation) == ("succeeded", 2)


async def test_a_retried_task_has_no_outcome(world: World) -> None:
    (task,) = (await world.submit()).ids
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(failed(dealt, error=b"x" * 5000))

    await world.store.retry(1, [task])

    row = await world.task(task)
    assert (row.outcome, row.encoding, row.ended_at, row.used) == (None, None, None, None)


async def test_a_retried_task_that_was_too_late_may_start(world: World) -> None:
    task = await in_state(world, "expired")

    await world.store.retry(1, [task])

    await world.advance(100)
    worker = await world.worker()
    assert (await worker.take_one()).id == task


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_place_among_the_finished_is_given_once(world: World, is_killed: bool) -> None:
    (task,) = (await world.submit()).ids
    await world.store.cancel(1, [task])
    await world.store.retry(1, [task])
    if is_killed:
        await world.kill()

    await world.store.cancel(1, [task])

    assert [each.n for each in world.ended] == [1, 2]


async def test_cancelled_tasks_leave_the_queue_in_order(world: World) -> None:
    tasks = (await world.submit(count=10)).ids
    await world.store.cancel(1, tasks[::2])
    worker = await world.worker()

    assert [each.id for each in await worker.take(10)] == tasks[1::2]
