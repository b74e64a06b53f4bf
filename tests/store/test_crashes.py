"""T9 and T10: attempts that die, and tasks given back."""

from tests.store.world import (
    World,
    crashed,
    released,
    spec,
)

RETRIES = spec(max_attempts=3, backoff=10.0)


async def test_a_crash_waits_and_is_tried_again(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    assert await worker.report(crashed(dealt)) == [200]

    assert await world.state(dealt.id) == "delayed"
    await world.advance(1.5)
    assert (await worker.take_one()).attempt == 2


async def test_poison_stops_after_three_crashes(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    for _ in range(3):
        await world.advance(20)
        dealt = await worker.take_one()
        assert await worker.report(crashed(dealt)) == [200]

    assert await world.state(dealt.id) == "failed"
    assert await world.error_kind(dealt.id) == "lost"
    assert await worker.report(crashed(dealt)) == [409]


async def test_crashes_and_lost_leases_count_together(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    await worker.report(crashed(await worker.take_one()))
    for _ in range(2):
        await world.advance(20)
        dealt = await worker.take_one()
        await worker.exchange()
        await world.advance(61)

    assert await world.state(dealt.id) == "failed"


async def test_crashes_survive_a_kill(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    for _ in range(3):
        await world.advance(20)
        dealt = await worker.take_one()
        await worker.report(crashed(dealt))
        await world.kill()

    assert await world.state(dealt.id) == "failed"


async def test_what_may_start_once_is_not_started_again(world: World) -> None:
    await world.submit(count=2, kind=spec(at_most_once=True))
    worker = await world.worker()
    first, second = await worker.take(2)

    await worker.report(crashed(first))
    await world.advance(61)

    assert await world.error_kind(first.id) == "lost"
    assert await world.error_kind(second.id) == "lost"
    assert await worker.take(5) == []


# ---- releases


async def test_giving_back_costs_nothing(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    for _ in range(30):
        assert await worker.report(released(await worker.take_one())) == [200]

    assert await world.state((await worker.take_one()).id) == "running"


async def test_five_unfit_workers_fail_it(world: World) -> None:
    accepted = await world.submit()
    for expected in ["queued"] * 4 + ["failed"]:
        worker = await world.worker()
        await worker.report(released(await worker.take_one(), unfit=True))
        assert await world.state(accepted.ids[0]) == expected

    assert await world.error_kind(accepted.ids[0]) == "environment"


async def test_only_the_holder_gives_back_or_crashes(world: World) -> None:
    await world.submit()
    worker, other = await world.worker(), await world.worker()
    dealt = await worker.take_one()

    assert await other.report(released(dealt), crashed(dealt)) == [409, 409]
    await worker.report(released(dealt))
    assert await worker.report(released(dealt), crashed(dealt)) == [409, 409]
