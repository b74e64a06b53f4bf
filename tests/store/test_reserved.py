"""Memory that is kept free for tasks that state none, and more for those that ran out of it."""

from __future__ import annotations

from typing import Any

import msgspec

from task_server.scheduling.requires import Requires, requires_of
from task_server.store.attempts import AttemptReport, Dealt, Used
from tests.store.world import World, failed, new_task, spec, succeeded

GIB = 2**30
HAS: dict[str, Any] = {"slots": 4, "cpu": 4.0, "memory": 8 * GIB}
TRIED_AGAIN = spec(max_attempts=3, retry_on=("out_of_memory",))


def keeping(size: int) -> Any:
    return spec(requires=Requires(reserved=size).text)


def ran_out(dealt: Dealt, peak: int) -> AttemptReport:
    report = failed(dealt, kind="out_of_memory")
    return msgspec.structs.replace(report, used=Used(run_seconds=1.0, peak_bytes=peak))


async def test_what_is_kept_free_is_not_given_twice(world: World) -> None:
    await world.submit(count=3, kind=keeping(3 * GIB))
    worker = await world.worker(**HAS)

    running = await worker.take(4)
    result = await worker.exchange(succeeded(running[0]), want=4)

    assert (len(running), len(result.tasks)) == (2, 1)


async def test_more_than_any_worker_has_is_all_that_one_has(world: World) -> None:
    await world.submit(count=2, kind=keeping(64 * GIB))
    worker = await world.worker(**HAS)

    assert len(await worker.take(4)) == 1


async def test_a_plain_worker_gets_such_tasks_too(world: World) -> None:
    await world.submit(kind=keeping(GIB))

    assert await world.plain_lease() is not None


async def test_what_ran_out_of_memory_is_tried_again_with_the_next_power_of_two(
    world: World,
) -> None:
    task = new_task()
    await world.submit(task, kind=TRIED_AGAIN)
    worker = await world.worker(**HAS)
    first = await worker.take_one()

    await worker.report(ran_out(first, 3 * GIB))
    await world.advance(10.0)
    await world.submit(count=1, kind=keeping(5 * GIB))
    running = await worker.take(4)

    assert [requires_of(each.kind.spec.requires) for each in running] == [
        Requires(reserved=4 * GIB)
    ]
    assert running[0].id == task.id and running[0].attempt == 2
    await worker.report(ran_out(running[0], 4 * GIB - 4096))
    await world.advance(10.0)
    await world.recount()
    row = await world.task(task.id)
    assert row.spec.requires == Requires(reserved=8 * GIB).text


async def test_who_stated_memory_is_tried_again_with_the_same(world: World) -> None:
    stated = Requires(memory=GIB).text
    await world.submit(kind=msgspec.structs.replace(TRIED_AGAIN, requires=stated, plain=False))
    worker = await world.worker(**HAS)

    await worker.report(ran_out(await worker.take_one(), GIB))
    await world.advance(10.0)

    assert (await worker.take_one()).kind.spec.requires == stated


async def test_what_failed_in_another_way_is_tried_again_as_before(world: World) -> None:
    await world.submit(kind=spec(max_attempts=3))
    worker = await world.worker(**HAS)

    await worker.report(failed(await worker.take_one()))
    await world.advance(10.0)

    assert (await worker.take_one()).kind.spec.requires == ""


async def test_it_is_remembered_what_calls_took_and_what_one_ran_out_of(world: World) -> None:
    worker = await world.worker(**HAS)
    await world.submit(count=2)
    done, ran = await worker.take(2)
    await worker.report(succeeded(done, used=Used(run_seconds=1.0, peak_bytes=300 * 2**20)))
    before = world.store.statistics(done.kind.spec.function_key)
    assert before is not None and before.peaks.high() == GIB // 2

    await worker.report(ran_out(ran, 3 * GIB))
    await world.kill()

    after = world.store.statistics(done.kind.spec.function_key)
    assert after is not None and after.peaks.high() == 4 * GIB


async def test_a_kind_that_all_tasks_have_left_can_go(world: World) -> None:
    task = new_task()
    await world.submit(task, kind=TRIED_AGAIN)
    worker = await world.worker(**HAS)
    await worker.report(ran_out(await worker.take_one(), 3 * GIB))
    await world.advance(10.0)

    world.has_purged = True
    while await world.store.forget_unused(keep_seconds=0.0):
        pass

    assert (await worker.take_one()).id == task.id
    await world.recount()
