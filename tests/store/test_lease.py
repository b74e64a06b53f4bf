"""T3: who gets what, in which order."""

import asyncio

import pytest

from task_server.scheduling.statistics import Price
from task_server.store.attempts import Used
from tests.store.world import (
    LEASE_SECONDS,
    Worker,
    World,
    crashed,
    ids,
    new_task,
    released,
    spec,
    succeeded,
)


async def test_a_lease_says_all_that_a_worker_needs(world: World) -> None:
    task = new_task(payload=b'"args":[1]')
    await world.submit(task)
    worker = await world.worker()

    dealt = await worker.take_one()

    assert (dealt.id, dealt.attempt, dealt.payload) == (task.id, 1, b'"args":[1]')
    assert len(dealt.secret) == 16
    row = await world.task(task.id)
    assert (row.state.word, row.attempt, row.started_at) == ("running", 1, world.clock.now)


async def test_each_lease_has_its_own_secret(world: World) -> None:
    await world.submit(count=50)
    worker = await world.worker()

    dealt = await worker.take(50)
    await worker.exchange(*map(released, dealt))
    dealt += await worker.take(50)

    assert len({each.secret for each in dealt}) == 100


async def test_tasks_of_one_lane_start_in_the_order_they_came(world: World) -> None:
    first = await world.submit(count=3)
    world.clock.advance(1)
    second = await world.submit(count=3)
    worker = await world.worker()

    dealt = await worker.take(2) + await worker.take(10)

    assert ids(dealt) == first.ids + second.ids


async def test_what_runs_since_long_fills_a_slot_though_others_came_and_went(
    world: World,
) -> None:
    await world.submit(count=10)
    worker = await world.worker(slots=2)
    await worker.take_one()
    for _ in range(3):
        short = await worker.take_one()
        await worker.report(succeeded(short))

    assert len(await worker.take(5)) == 1
    assert await worker.take(5) == []


async def test_no_more_than_wanted_and_no_more_than_there_are_slots(world: World) -> None:
    await world.submit(count=10)
    worker = await world.worker(slots=4)

    assert len(await worker.take(3)) == 3
    assert len(await worker.take(3)) == 1
    assert await worker.take(3) == []


async def test_a_worker_gets_only_what_its_pythons_run(world: World) -> None:
    await world.submit(kind=spec(python="3.9", request="python 3.9"))
    new = await world.worker()
    old = await world.worker(pythons=("3.9",))

    assert await new.take() == []
    assert len(await old.take()) == 1


async def test_a_draining_worker_gets_nothing(world: World) -> None:
    await world.submit()
    worker = await world.worker()

    assert await worker.take(1, draining=True) == []
    assert len(await worker.take(1)) == 1


async def test_an_owners_higher_priority_goes_first(world: World) -> None:
    low = await world.submit(kind=spec(priority=-5))
    middle = await world.submit()
    high = await world.submit(kind=spec(priority=5))
    worker = await world.worker()

    dealt = [(await worker.take_one()).id for _ in range(3)]

    assert dealt == high.ids + middle.ids + low.ids


async def test_priority_does_not_pass_another_owner(world: World) -> None:
    for owner, priority in ((1, 10), (2, -10)):
        await world.submit(count=10, kind=spec(owner=owner, priority=priority))
    worker = await world.worker()

    dealt = await worker.take(10)

    owners = [each.kind.spec.owner for each in dealt]
    assert (owners.count(1), owners.count(2)) == (5, 5)


async def test_owners_share_by_seconds_not_by_tasks(world: World) -> None:
    for owner, seconds in ((1, 30.0), (2, 10.0)):
        price = Price(seconds, seconds, seconds, seconds, 9, "history")
        await world.submit(count=20, kind=spec(owner=owner), price=price)
    worker = await world.worker()

    dealt = await worker.take(12)

    owners = [each.kind.spec.owner for each in dealt]
    assert (owners.count(1), owners.count(2)) == (3, 9)


async def test_an_owner_back_from_idle_has_saved_up_nothing(world: World) -> None:
    await world.submit(count=40)
    worker = await world.worker(slots=1000)
    done = await worker.take(20)
    await worker.report(*[succeeded(each, used=Used(run_seconds=1.0)) for each in done])
    await world.submit(count=40, kind=spec(owner=2))

    dealt = await worker.take(10)

    owners = [each.kind.spec.owner for each in dealt]
    assert (owners.count(1), owners.count(2)) == (5, 5)


async def test_an_owner_back_from_idle_does_not_pay_for_what_others_may_take(world: World) -> None:
    await world.submit(count=40)
    worker = await world.worker(slots=1000)
    flood = await worker.take(20)
    await world.submit(count=40, kind=spec(owner=2))

    dealt = await worker.take(10)
    await worker.report(*[succeeded(each, used=Used(run_seconds=0.0)) for each in flood])

    assert {each.kind.spec.owner for each in dealt} == {2}
    assert {each.kind.spec.owner for each in await worker.take(5)} == {1}


async def test_what_a_task_took_replaces_what_was_charged(world: World) -> None:
    for owner in (1, 2):
        await world.submit(count=40, kind=spec(owner=owner))
    worker = await world.worker(slots=1000)
    dealt = await worker.take(10)
    quick = [each for each in dealt if each.kind.spec.owner == 1]
    await worker.report(*[succeeded(each, used=Used(run_seconds=0.0)) for each in quick])

    dealt = await worker.take(5)

    assert [each.kind.spec.owner for each in dealt] == [1] * 5


async def test_shares_outlive_the_server(world: World) -> None:
    for owner in (1, 2):
        await world.submit(count=40, kind=spec(owner=owner))
    worker = await world.worker(slots=1000)
    dealt = await worker.take(10)
    mine = [each for each in dealt if each.kind.spec.owner == 1]
    await worker.report(*[succeeded(each, used=Used(run_seconds=0.0)) for each in mine])
    await world.store.expire()
    await world.kill()

    dealt = await worker.take(5)

    assert [each.kind.spec.owner for each in dealt] == [1] * 5


# ---- parked exchanges


async def test_the_transaction_that_submits_answers_a_parked_worker(world: World) -> None:
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=20))
    await asyncio.sleep(0)

    accepted = await world.submit(count=2)

    assert ids(await parked) == accepted.ids
    assert [await world.state(each) for each in accepted.ids] == ["running"] * 2


async def test_parked_workers_share_what_comes(world: World) -> None:
    workers = [await world.worker(slots=1) for _ in range(3)]
    parked = [asyncio.create_task(worker.take(5, wait=20)) for worker in workers]
    await asyncio.sleep(0)

    accepted = await world.submit(count=3)

    dealt = [await each for each in parked]
    assert sorted(each.id for tasks in dealt for each in tasks) == sorted(accepted.ids)
    assert [len(tasks) for tasks in dealt] == [1, 1, 1]


async def test_a_parked_worker_is_told_when_its_wait_is_over(world: World) -> None:
    worker = await world.worker()

    assert await worker.take(1, wait=0.02) == []


async def test_a_worker_that_went_away_while_parked_gets_no_tasks(world: World) -> None:
    gone, there = await world.worker(), await world.worker()
    parked = asyncio.create_task(gone.take(1, wait=20))
    await asyncio.sleep(0.01)
    parked.cancel()
    await asyncio.gather(parked, return_exceptions=True)

    await world.submit()

    assert len(await there.take(1)) == 1


async def test_a_task_made_due_goes_to_a_parked_worker(world: World) -> None:
    await world.submit(new_task(run_after=world.clock.now + 5))
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(1, wait=20))
    await asyncio.sleep(0)

    await world.advance(5)

    assert len(await parked) == 1


async def test_closing_ends_parked_exchanges(world: World) -> None:
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(1, wait=20))
    await asyncio.sleep(0)

    await world.restart()

    assert await parked == []


# ---- prefetch


async def measured(world: World, seconds: float) -> None:
    """Have the function known by a hundred calls."""
    await world.submit(count=100)
    worker = await world.worker(slots=100)
    tasks = await worker.take(100)
    await worker.report(*[succeeded(each, used=Used(run_seconds=seconds)) for each in tasks])


async def taken(world: World, worker: Worker) -> int:
    await world.submit(count=600)
    return len(await worker.take(600))


@pytest.mark.parametrize("seconds", [None, 0.1])
async def test_unknown_and_long_functions_get_a_slot_each(
    world: World, seconds: float | None
) -> None:
    if seconds is not None:
        await measured(world, seconds)
    worker = await world.worker(slots=2)

    assert await taken(world, worker) == 2


async def test_short_functions_are_dealt_ahead_of_a_free_slot(world: World) -> None:
    await measured(world, 0.000_01)
    worker = await world.worker(slots=2)

    assert await taken(world, worker) == 600


async def test_no_more_is_dealt_ahead_than_fifty_milliseconds_a_slot(world: World) -> None:
    await measured(world, 0.001)
    worker = await world.worker(slots=2)

    assert 2 * 35 <= await taken(world, worker) <= 2 * 50


async def test_a_task_that_crashed_is_dealt_alone(world: World) -> None:
    await measured(world, 0.000_01)
    accepted = await world.submit()
    worker = await world.worker(slots=1)
    await worker.report(crashed(await worker.take_one()))
    await world.advance(1.5)
    await world.submit(count=20)

    assert ids(await worker.take(600)) == accepted.ids


async def test_a_task_that_crashed_is_not_put_behind_others(world: World) -> None:
    await measured(world, 0.000_01)
    accepted = await world.submit()
    worker = await world.worker(slots=1)
    await worker.report(crashed(await worker.take_one()))
    before = await world.submit(count=3)
    await world.advance(1.5)

    dealt = await worker.take(600)

    assert ids(dealt) == before.ids
    assert ids((await worker.exchange(*map(succeeded, dealt), want=9)).tasks) == accepted.ids


# ---- environments


async def test_a_lock_lets_the_tasks_go_to_a_parked_worker(world: World) -> None:
    kind = spec(request="numpy", environment=None)
    accepted = await world.submit(count=2, kind=kind)
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=20))
    await asyncio.sleep(0)

    await world.store.locked("numpy", environment="f" * 64, python="3.11", lock="numpy==2\n")

    assert ids(await parked) == accepted.ids
    row = await world.task(accepted.ids[0])
    assert row.environment == "f" * 64


async def test_a_lock_outlives_the_server(world: World) -> None:
    accepted = await world.submit(kind=spec(request="numpy", environment=None))
    await world.store.locked("numpy", environment="f" * 64, python="3.11", lock="numpy==2\n")
    await world.kill()
    worker = await world.worker()

    assert ids(await worker.take()) == accepted.ids


async def test_a_worker_that_cannot_build_is_not_asked_for_ten_minutes(world: World) -> None:
    accepted = await world.submit()
    unfit, fit = await world.worker(), await world.worker()
    await unfit.report(released(await unfit.take_one(), unfit=True))

    await world.advance(590)
    assert await unfit.take() == []
    dealt = await fit.take_one()
    assert dealt.id == accepted.ids[0]
    await fit.report(released(dealt))
    await world.advance(11)
    assert ids(await unfit.take()) == accepted.ids


async def test_a_worker_whose_index_is_away_is_not_asked_for_a_while_at_no_cost(
    world: World,
) -> None:
    accepted = await world.submit()
    waiting, other = await world.worker(), await world.worker()

    for _ in range(7):
        await waiting.report(released(await waiting.take_one(), pause_seconds=60.0))
        assert await waiting.take() == []
        await world.advance(61)

    assert ids(await other.take()) == accepted.ids


async def test_that_is_remembered_over_a_restart(world: World) -> None:
    await world.submit()
    unfit = await world.worker()
    await unfit.report(released(await unfit.take_one(), unfit=True))
    await world.kill()

    assert await unfit.take() == []
    await unfit.join()
    assert await unfit.take() == [], "its next session is on the same machine"
    await world.advance(601)
    assert len(await unfit.take()) == 1


async def test_an_unfit_worker_still_gets_other_environments(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    await worker.report(released(await worker.take_one(), unfit=True))
    other = await world.submit(kind=spec(request="numpy", environment="f" * 64))

    assert ids(await worker.take(5)) == other.ids


async def test_a_lease_lasts_a_term(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    await worker.take()

    await world.advance(LEASE_SECONDS - 1)
    assert await world.state(accepted.ids[0]) == "running"
    await world.advance(1)
    assert await world.state(accepted.ids[0]) == "delayed"


async def test_nor_in_the_very_exchange_that_says_so(world: World) -> None:
    accepted = await world.submit()
    unfit, fit = await world.worker(), await world.worker()
    dealt = await unfit.take_one()

    result = await unfit.exchange(released(dealt, unfit=True), want=5)

    assert result.tasks == []
    assert ids(await fit.take(5)) == accepted.ids


async def test_a_task_goes_only_to_a_worker_whose_sandbox_reaches_its_level(world: World) -> None:
    await world.submit(count=1)
    firm = await world.submit(count=1, kind=spec(sandbox=3, plain=False))
    firmest = await world.submit(count=1, kind=spec(sandbox=4, plain=False))

    loose = await world.worker(sandbox=2)
    assert len(await loose.take(10)) == 1
    able = await world.worker(sandbox=3)
    assert ids(await able.take(10)) == firm.ids
    await world.restart()
    best = await world.worker(sandbox=4)
    assert ids(await best.take(10)) == firmest.ids
