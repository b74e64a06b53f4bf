"""`timeout: "auto"`: the limit of a run is fixed when it is leased."""

from __future__ import annotations

from task_server.scheduling.statistics import Price
from task_server.scheduling.timeouts import CALLS, DEFAULT_SECONDS
from task_server.store.attempts import Used
from task_server.store.kinds import AUTO
from tests.store.world import LEASE_SECONDS, World, failed, new_task, spec, succeeded

KNOWN = Price(100.0, 100.0, 100.0, 100.0, 10, "history")
AUTOMATIC = spec(timeout=AUTO, max_attempts=3)


async def measured(world: World, seconds: float, times: int = CALLS) -> None:
    """Let the function be called."""
    worker = await world.worker()
    await world.submit(count=times)
    for dealt in await worker.take(times):
        await worker.report(succeeded(dealt, used=Used(run_seconds=seconds)))


async def test_a_lease_says_how_long_the_run_may_take(world: World) -> None:
    await measured(world, 100.0)
    task = new_task()
    await world.submit(task, kind=AUTOMATIC, price=KNOWN)
    worker = await world.worker()

    (dealt,) = await worker.take(1)

    assert dealt.limit is not None and 300 <= dealt.limit.seconds <= 450
    row = await world.task(task.id)
    assert (row.limit_seconds, row.limit_why) == (dealt.limit.seconds, dealt.limit.why)


async def test_a_function_that_is_not_known_gets_the_default(world: World) -> None:
    await world.submit(kind=AUTOMATIC)
    worker = await world.worker()

    (dealt,) = await worker.take(1)

    assert dealt.limit is not None and dealt.limit.seconds == DEFAULT_SECONDS


async def test_a_stated_timeout_is_nobodys_business(world: World) -> None:
    task = new_task()
    await world.submit(task, kind=spec(timeout=5.0))
    worker = await world.worker()

    (dealt,) = await worker.take(1)

    assert dealt.limit is None and (await world.task(task.id)).limit_seconds is None


async def test_a_retry_may_take_twice_what_is_usual_by_then(world: World) -> None:
    await measured(world, 100.0, times=100)
    await world.submit(kind=AUTOMATIC, price=KNOWN)
    worker = await world.worker()
    (first,) = await worker.take(1)
    await worker.report(failed(first))
    await world.advance(10.0)

    (second,) = await worker.take(1)

    assert first.limit is not None and second.limit is not None
    assert second.limit.seconds == 2 * first.limit.seconds


async def test_a_lease_that_is_told_again_has_the_same_limit(world: World) -> None:
    await measured(world, 100.0)
    await world.submit(kind=AUTOMATIC, price=KNOWN)
    worker = await world.worker()
    lost = await worker.exchange(want=1, is_lost=True)
    await measured(world, 900.0, times=50)
    await world.kill()

    again = await worker.exchange(want=1)

    assert again.tasks[0].limit is not None
    assert [each.limit for each in again.tasks] == [each.limit for each in lost.tasks]


async def test_a_plain_workers_lease_lasts_as_long_as_the_run_may(world: World) -> None:
    await measured(world, 100.0)
    task = new_task()
    await world.submit(task, kind=AUTOMATIC, price=KNOWN)
    dealt = await world.plain_lease()
    assert dealt is not None and dealt.limit is not None

    await world.advance(dealt.limit.seconds + LEASE_SECONDS - 1.0)
    assert await world.state(task.id) == "running"
    await world.advance(2.0)

    assert await world.state(task.id) != "running"
