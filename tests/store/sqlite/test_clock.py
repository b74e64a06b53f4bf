"""The clock is set: no lease ends early, none hangs, and no task's times run backwards."""

import pytest

from task_server.protocol.ids import new_ids
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import (
    LEASE_SECONDS,
    drain,
    failed,
    new_task,
    released,
    spec,
    succeeded,
)

HOUR = 3600.0
JUMPS = [HOUR, -HOUR, 48 * HOUR, -48 * HOUR]
jumps = pytest.mark.parametrize("by", JUMPS)
PLAIN_SECONDS = 900.0


async def set_clock(world: SqliteWorld, by: float) -> None:
    """Set the clock, and let the store know as the server does."""
    world.clock.advance(by)
    await world.store.extend_leases(by=by)
    await world.store.expire()


@jumps
async def test_no_lease_of_a_live_worker_ends_early(world: SqliteWorld, by: float) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()
    await world.advance(LEASE_SECONDS - 1)

    await set_clock(world, by)
    await world.advance(LEASE_SECONDS - 1)

    assert await world.state(dealt.id) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


@jumps
async def test_the_lease_of_a_dead_worker_ends_within_a_term(world: SqliteWorld, by: float) -> None:
    worker = await world.worker()
    await world.submit()
    dealt = await worker.take_one()

    await set_clock(world, by)
    await world.advance(LEASE_SECONDS + 1)

    assert await world.state(dealt.id) == "delayed"


async def plain_lease(world: SqliteWorld) -> bytes:
    (task,) = (await world.submit()).ids
    dealt = await world.store.plain_lease(9, wait_until=world.clock.now, seconds=PLAIN_SECONDS)
    assert dealt is not None and dealt.id == task
    return task


@jumps
async def test_a_plain_workers_lease_keeps_what_is_left_of_it(
    world: SqliteWorld, by: float
) -> None:
    task = await plain_lease(world)
    await world.advance(500)

    await set_clock(world, by)

    await world.advance(PLAIN_SECONDS - 500 - 1)
    assert await world.state(task) == "running"
    await world.advance(500 + 2)
    assert await world.state(task) == "delayed"


@jumps
async def test_a_plain_lease_given_after_the_clock_was_set_is_as_long_as_any(
    world: SqliteWorld, by: float
) -> None:
    world.clock.advance(by)
    task = await plain_lease(world)

    await world.store.extend_leases(by=by)

    await world.advance(PLAIN_SECONDS - 1)
    assert await world.state(task) == "running"
    await world.advance(2)
    assert await world.state(task) == "delayed"


@jumps
async def test_a_tasks_times_never_run_backwards(world: SqliteWorld, by: float) -> None:
    for count in range(3):
        await world.submit(*[new_task(each) for each in new_ids(3)], kind=spec(priority=-count))
    worker = await world.worker()
    first, *_ = await worker.take(2)
    tasks = [each.id for each in await worker.take(1)]

    await set_clock(world, by)
    await worker.report(succeeded(first), released(await worker.take_one()))
    waiting = (await worker.take(1))[0]
    await worker.report(failed(waiting))
    await drain(worker)
    await world.store.cancel(None, tasks)

    rows = await world.store.read(
        lambda rows: rows.fetch("SELECT submitted_at, started_at, ended_at FROM tasks")
    )
    assert len(rows) == 9
    for row in rows:
        times = [moment for moment in row if moment is not None]
        assert times == sorted(times)


@pytest.mark.parametrize("by", [-HOUR, -48 * HOUR])
async def test_what_waited_before_stays_ahead_of_what_comes_after(
    world: SqliteWorld, by: float
) -> None:
    before = []
    for _ in range(3):
        before += (await world.submit(count=2)).ids
        await world.advance(10)

    await set_clock(world, by)
    after = (await world.submit(count=2)).ids

    assert await drain(await world.worker(), at_once=3) == [*before, *after]


@pytest.mark.parametrize("by", [-HOUR, -48 * HOUR])
async def test_a_retry_does_not_wait_longer(world: SqliteWorld, by: float) -> None:
    await world.submit(kind=spec(max_attempts=3))
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(failed(dealt))
    assert await world.state(dealt.id) == "delayed"

    await set_clock(world, by)
    await world.advance(5)

    assert await world.state(dealt.id) == "queued"


async def test_a_task_with_a_time_of_its_own_waits_for_that_time(world: SqliteWorld) -> None:
    task = new_task(run_after=world.clock.now + 100)
    await world.submit(task)

    await set_clock(world, -HOUR)
    await world.advance(HOUR)
    assert await world.state(task.id) == "delayed"
    await world.advance(101)

    assert await world.state(task.id) == "queued"


@pytest.mark.parametrize("by", [-HOUR, -48 * HOUR])
async def test_a_request_for_an_environment_is_tried_again_soon(
    world: SqliteWorld, by: float
) -> None:
    text = "python 3.11 requests"
    await world.submit(kind=spec(request=text, environment=None))
    await world.store.lock_later(
        text, at=world.clock.now + 2, reason="the index is away", counts=False
    )

    await set_clock(world, by)

    requests = await world.store.open_requests(world.clock.now + 60)
    assert [request for request, _, _ in requests] == [text]


@pytest.mark.parametrize("by", [-HOUR, -48 * HOUR])
async def test_a_broken_environment_is_offered_again_as_soon_as_ever(
    world: SqliteWorld, by: float
) -> None:
    await world.submit()
    worker = await world.worker()
    await worker.report(released(await worker.take_one(), unfit=True))
    assert await worker.take(1) == []

    await set_clock(world, by)
    await world.advance(world.store.policy.exclusion_seconds + 1)
    await worker.exchange()

    assert len(await worker.take(1)) == 1


@pytest.mark.parametrize("by", [-HOUR, -48 * HOUR])
async def test_a_clock_that_was_set_back_while_the_server_was_away(
    world: SqliteWorld, by: float
) -> None:
    plain = await plain_lease(world)
    await world.submit()
    worker = await world.worker()
    held = await worker.take_one()
    waiting = (await world.submit(count=2)).ids
    await world.store.expire()  # writes how long the session lives

    world.clock.advance(by)
    await world.restart()
    after = (await world.submit()).ids

    await world.advance(LEASE_SECONDS + 1)
    assert await world.state(held.id) == "delayed"
    assert await world.state(plain) == "running"
    assert await drain(await world.worker()) == [*waiting, *after]
    await world.advance(PLAIN_SECONDS)
    assert await world.state(plain) == "delayed"
