"""What tasks require of their worker, from the submit to the lease."""

from __future__ import annotations

from typing import Any

import pytest

from task_server.scheduling.requires import Requires
from task_server.store.attempts import Used
from tests.store.world import Worker, World, crashed, held, ids, spec, succeeded

GIB = 2**30
HAS: dict[str, Any] = {"cpu": 4.0, "memory": 8 * GIB, "gpu": 2, "labels": {"rack": "b"}}


def requiring(**requires: Any) -> Any:
    labels = tuple(requires.pop("labels", {}).items())
    return spec(plain=False, requires=Requires(labels=labels, **requires).text)


async def able(world: World, **options: Any) -> Worker:
    return await world.worker(slots=4, **{**HAS, **options})


@pytest.mark.parametrize(
    "requires,lacks",
    [
        ({"cpu": 3.0}, {"cpu": 2.0}),
        ({"memory": 5 * GIB}, {"memory": 4 * GIB}),
        ({"gpu": 1}, {"gpu": 0}),
        ({"labels": {"rack": "b"}}, {"labels": {"rack": "a"}}),
        ({"labels": {"rack": "b"}}, {"labels": {}}),
    ],
)
async def test_a_task_goes_only_to_a_worker_that_has_what_it_requires(
    world: World, requires: dict[str, Any], lacks: dict[str, Any]
) -> None:
    await world.submit(kind=requiring(**requires))
    unable, worker = await able(world, **lacks), await able(world)

    assert await unable.take(4) == []
    assert len(await worker.take(4)) == 1


async def test_what_runs_is_not_given_twice_and_is_free_when_it_ends(world: World) -> None:
    await world.submit(count=3, kind=requiring(gpu=1, memory=3 * GIB))
    worker = await able(world)

    running = await worker.take(4)
    assert len(running) == 2, "there are 2 GPUs"
    assert await worker.take(4) == []
    result = await worker.exchange(succeeded(running[0]), want=4)

    assert len(result.tasks) == 1


async def test_a_parked_worker_gets_the_next_as_soon_as_it_reports(world: World) -> None:
    await world.submit(count=2, kind=requiring(gpu=2))
    worker = await able(world)
    running = await worker.take_one()

    result = await worker.exchange(succeeded(running), want=4, wait=10)

    assert len(result.tasks) == 1


async def test_cores_are_given_once_to_those_who_say_how_many_and_to_those_who_do_not(
    world: World,
) -> None:
    await world.submit(count=1, kind=requiring(cpu=3.0))
    worker = await able(world)
    many = await worker.take(4)
    await world.submit(count=4)

    assert len(many) == 1
    assert len(await worker.take(4)) == 1, "one core of four is left"


async def test_what_does_not_fit_now_is_passed_by_what_does(world: World) -> None:
    await world.submit(count=2, kind=requiring(gpu=2))
    later = await world.submit(count=1)
    worker = await able(world)

    dealt = await worker.take(4)

    assert len(dealt) == 2 and dealt[1].id == later.ids[0]


async def test_tasks_of_the_same_requirements_share_a_lane(world: World) -> None:
    first = await world.submit(kind=requiring(gpu=1))
    world.clock.advance(1)
    other = await world.submit(kind=requiring(gpu=1, memory=GIB))
    world.clock.advance(1)
    second = await world.submit(kind=requiring(gpu=1))
    worker = await world.worker(slots=9, **{**HAS, "gpu": 9})

    dealt = await worker.take(9)

    lanes = {each.id: each.kind.lane for each in dealt}
    assert lanes[first.ids[0]] == lanes[second.ids[0]] != lanes[other.ids[0]]
    assert ids(dealt) == first.ids + other.ids + second.ids


async def test_a_plain_worker_gets_nothing_that_requires_something(world: World) -> None:
    await world.submit(kind=requiring(labels={"rack": "b"}))

    assert await world.plain_lease() is None


async def test_what_runs_is_counted_after_a_restart_too(world: World) -> None:
    await world.submit(count=3, kind=requiring(gpu=1))
    worker = await able(world)
    running = await worker.take(4)

    await world.kill()

    assert len(running) == 2
    assert await worker.take(4) == []
    result = await worker.exchange(succeeded(running[0]), want=4)
    assert len(result.tasks) == 1


async def test_what_waits_is_for_those_who_have_it_after_a_restart_too(world: World) -> None:
    await world.submit(count=1, kind=requiring(gpu=1))

    await world.kill()
    unable, worker = await able(world, gpu=0), await able(world)

    assert await unable.take(4) == []
    assert len(await worker.take(4)) == 1


async def test_what_a_lost_attempt_took_is_free_again(world: World) -> None:
    await world.submit(count=1, kind=requiring(gpu=2))
    worker = await able(world)
    first = await worker.take_one()

    await worker.report(crashed(first))
    await world.advance(10)

    assert (await worker.take_one()).attempt == 2


async def test_short_functions_that_take_something_have_a_slot_alone(world: World) -> None:
    quick = Used(run_seconds=0.000_1)
    worker = await able(world)
    await world.submit(count=20)
    while dealt := await worker.take(100):
        await worker.report(*[succeeded(each, used=quick) for each in dealt])
    await world.submit(count=20, kind=requiring(memory=GIB))

    assert len(await worker.take(100)) == 4


async def test_a_lane_goes_with_its_last_kind_and_comes_again(world: World) -> None:
    first = await world.submit(count=1, kind=requiring(gpu=1))
    worker = await able(world)
    await worker.report(succeeded(await worker.take_one()))
    await world.store.delete(1, first.ids[0])
    world.has_purged = True
    while await world.store.forget_unused(keep_seconds=0.0):
        pass
    assert await world.store.queued(None) == []

    await world.submit(count=1, kind=requiring(gpu=1))

    assert len(await worker.take(4)) == 1


async def test_what_needs_much_is_not_passed_for_ever(world: World) -> None:
    worker = await able(world)
    await world.submit(count=4)
    running = await worker.take(4)
    big = await world.submit(kind=requiring(cpu=4.0))
    await world.advance(30)
    await world.submit(count=50)

    started: list[bytes] = []
    for _ in range(5):
        await worker.exchange(held=[held(each, "running") for each in running])
        result = await worker.exchange(succeeded(running.pop(0)), want=4)
        running += result.tasks
        started += ids(result.tasks)
        if big.ids[0] in started:
            break

    assert big.ids[0] in started
