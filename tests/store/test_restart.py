"""What a server that starts finds, and what it refuses to start on."""

import pytest

from task_server.protocol.ids import new_ids
from tests.store.world import LEASE_SECONDS, World, failed, new_task, spec, succeeded


async def test_what_was_acknowledged_is_there_after_a_kill(world: World) -> None:
    accepted = await world.submit(count=5, kind=spec(max_attempts=2))
    worker = await world.worker()
    done, bad, _ = await worker.take(3)
    await worker.report(succeeded(done, b"7"), failed(bad))
    await world.store.cancel(1, accepted.ids[4:])

    await world.kill()

    states = [await world.state(each) for each in accepted.ids]
    assert states == ["succeeded", "delayed", "running", "queued", "cancelled"]
    assert (await world.task(done.id)).outcome == b"7"


@pytest.mark.parametrize("is_killed", [False, True])
async def test_every_lease_gets_a_full_new_term(world: World, is_killed: bool) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    world.clock.advance(3 * LEASE_SECONDS)
    await (world.kill() if is_killed else world.restart())

    await world.advance(LEASE_SECONDS - 1)
    assert await world.state(accepted.ids[0]) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


async def test_and_no_more_than_that(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    await worker.take_one()
    await world.kill()

    await world.advance(LEASE_SECONDS)

    assert await world.state(accepted.ids[0]) == "delayed"


async def test_a_clock_that_was_set_gives_every_lease_a_term(world: World) -> None:
    (first,) = (await world.submit()).ids
    worker = await world.worker()
    await worker.take_one()
    (second,) = (await world.submit()).ids
    await world.plain_lease()
    world.clock.advance(5000)

    await world.store.extend_leases()

    await world.advance(LEASE_SECONDS - 1)
    assert [await world.state(each) for each in (first, second)] == ["running"] * 2
    await world.advance(1)
    assert [await world.state(each) for each in (first, second)] == ["delayed"] * 2


@pytest.mark.parametrize("is_delayed", [False, True])
async def test_what_waited_goes_first_when_the_clock_was_set_back_meanwhile(
    world: World, is_delayed: bool
) -> None:
    run_after = world.clock.now + 1000 if is_delayed else None
    waiting = (await world.submit(new_task(run_after=run_after))).ids
    if is_delayed:  # that somebody joined is all that is known of the time since
        await world.advance(5000)
        await world.worker()
    world.clock.advance(-3000)
    await world.restart()
    await world.store.expire()

    later = (await world.submit()).ids

    dealt = await (await world.worker()).take(2)
    assert [each.id for each in dealt] == [*waiting, *later]


async def test_sessions_go_on_after_a_restart(world: World) -> None:
    worker = await world.worker()
    await worker.exchange()
    await world.restart()
    accepted = await world.submit()

    assert [each.id for each in await worker.take()] == accepted.ids


async def test_places_and_numbers_go_on(world: World) -> None:
    first = await world.submit()
    await world.store.cancel(1, first.ids)
    await world.kill()
    second = await world.submit()
    await world.store.cancel(1, second.ids)

    assert [each.n for each in world.ended] == [1, 2]
    rows = [await world.task(each) for each in first.ids + second.ids]
    assert rows[0].number < rows[1].number


async def test_statistics_are_the_same(world: World) -> None:
    await world.submit(count=5)
    worker = await world.worker()
    dealt = await worker.take(3)
    await worker.report(*map(succeeded, dealt[:2]))
    before = world.store.statistics((0, "", "math:sqrt"))

    await world.kill()

    after = world.store.statistics((0, "", "math:sqrt"))
    assert before is not None and after is not None
    assert before.price() == after.price()


async def test_short_functions_are_still_dealt_ahead(world: World) -> None:
    await world.submit(*[new_task(each) for each in new_ids(40)])
    worker = await world.worker(slots=20)
    dealt = await worker.take(20)
    for each in dealt:
        report = succeeded(each)
        assert report.used is not None
        report.used.run_seconds = 0.000_01
        await worker.report(report)
    one = await world.worker(slots=1)
    assert len(await one.take(10)) == 10

    await world.kill()

    assert len(await one.take(10)) == 10
