"""In which order tasks of one lane start: by what they are predicted to take, and wanted by."""

from __future__ import annotations

from typing import Any

import pytest

from task_server.protocol.ids import new_ids
from task_server.scheduling.statistics import Price
from task_server.store.submissions import BatchSpec, NewTask
from tests.store.world import (
    World,
    batch,
    crashed,
    drain,
    failed,
    ids,
    new_task,
    released,
    spec,
)

RETRIED = spec(max_attempts=2)


def price(seconds: float) -> Price:
    """A known function that takes that long, and twice as long one time in ten."""
    return Price(seconds / 2, seconds, 2 * seconds, 3 * seconds, 100, "history")


async def submitted(world: World, seconds: float, **options: Any) -> bytes:
    """One task that is predicted to take so long."""
    task = new_task(**options)
    await world.submit(task, price=price(seconds))
    return task.id


async def in_batch(world: World, *seconds: float, **options: Any) -> list[bytes]:
    """A batch of tasks that are predicted to take so long, on four slots."""
    tasks = [new_task(spec=place) for place in range(len(seconds))]
    await submit_into(world, tasks, seconds, batch=batch(**options))
    return [task.id for task in tasks]


async def submit_into(
    world: World,
    tasks: list[NewTask],
    seconds: tuple[float, ...],
    *,
    batch: BatchSpec | None = None,
    into: bytes | None = None,
) -> None:
    await world.submit_kinds(
        tasks,
        kinds=[spec(tags=(str(place),)) for place in range(len(seconds))],
        prices=[price(each) for each in seconds],
        batch=batch,
        into=into,
        slots=4,
    )


async def started(world: World) -> list[bytes]:
    """What starts, in order."""
    return await drain(await world.worker(slots=1))


async def test_short_work_starts_before_long_work(world: World) -> None:
    long = await submitted(world, 60.0)
    short = await submitted(world, 0.1)

    assert await started(world) == [short, long]


async def test_long_work_is_passed_for_ten_times_its_own_time_at_most(world: World) -> None:
    long = await submitted(world, 4.0)
    world.clock.advance(39.0)
    last = await submitted(world, 0.01)
    world.clock.advance(2.0)
    too_late = await submitted(world, 0.01)

    assert await started(world) == [last, long, too_late]


async def test_what_is_about_as_long_starts_as_it_came(world: World) -> None:
    tasks = [await submitted(world, seconds) for seconds in (1.9, 1.1, 1.5)]

    assert await started(world) == tasks


async def test_what_is_wanted_soon_starts_first(world: World) -> None:
    now = world.clock.now
    short = await submitted(world, 1.0)
    wanted = await submitted(world, 30.0, finish_by=now + 61.0)
    late = await submitted(world, 30.0, finish_by=now + 1e6)

    assert await started(world) == [wanted, short, late]


async def test_the_longest_of_a_batch_starts_first(world: World) -> None:
    one, two, three = await in_batch(world, 1.0, 9.0, 3.0)

    assert await started(world) == [two, three, one]


async def test_a_batch_starts_by_its_time_on_all_the_slots(world: World) -> None:
    longer = await submitted(world, 5.0)
    members = await in_batch(world, 4.0, 4.0, 4.0, 4.0)
    shorter = await submitted(world, 3.0)

    assert await started(world) == [*members, shorter, longer]


async def test_a_batch_in_submit_order_starts_in_submit_order(world: World) -> None:
    opened = batch(in_order=True, is_open=True)
    await world.store.open_batch(1, opened)
    tasks = [new_task(each, spec=place) for place, each in enumerate(new_ids(4))]
    tasks[1].finish_by = world.clock.now
    await submit_into(world, tasks, (64.0, 1.0, 9.0, 3.0), into=opened.id)
    later = [new_task(each, spec=place) for place, each in enumerate(new_ids(2))]
    await submit_into(world, later, (0.1, 0.2), into=opened.id)

    assert await started(world) == [task.id for task in tasks + later]


async def test_more_of_a_batch_is_expected_to_take_as_long(world: World) -> None:
    opened = batch(is_open=True, expected=400)
    await world.store.open_batch(1, opened)
    await submit_into(world, [new_task()], (1.0,), into=opened.id)  # 100 s for each slot
    other = await submitted(world, 60.0)

    assert (await started(world))[0] == other


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_a_task_that_becomes_due_stands_where_it_would_if_it_came_now(
    world: World, is_restarted: bool
) -> None:
    now = world.clock.now
    plain = await submitted(world, 4.0, run_after=now + 100.0)
    wanted = await submitted(world, 16.0, run_after=now + 100.0, finish_by=now + 134.0)
    world.clock.advance(100.0)
    before = await submitted(world, 0.5)
    if is_restarted:
        await world.kill()
    await world.store.expire()
    between = await submitted(world, 2.0)
    after = await submitted(world, 8.0)

    assert await started(world) == [wanted, before, between, plain, after]


async def test_a_task_tried_again_stands_where_it_would_if_it_came_now(world: World) -> None:
    now = world.clock.now
    worker = await world.worker()
    tasks = [
        new_task(finish_by=now + 1000.0),
        new_task(),
    ]
    for task in tasks:
        await world.submit(task, price=price(4.0), kind=RETRIED)
    await worker.report(*map(failed, await worker.take(2)))
    await world.advance(5.0)
    await worker.report(*map(failed, await worker.take(2)))
    world.clock.advance(994.0)  # less than its p90 is left for the first
    before = await submitted(world, 0.5)

    assert await world.store.retry(1, [task.id for task in reversed(tasks)]) == [200, 200]

    assert await started(world) == [tasks[0].id, before, tasks[1].id]


async def test_what_comes_back_from_a_worker_keeps_its_place(world: World) -> None:
    worker = await world.worker()
    lost = await submitted(world, 4.0)
    back = await submitted(world, 8.0)
    first, second = await worker.take(2)
    await worker.report(crashed(first), released(second))
    world.clock.advance(30.0)
    await world.store.expire()
    middle = await submitted(world, 4.0)

    order = await started(world)

    assert order == [lost, middle, back] and ids([first, second]) == [lost, back]
