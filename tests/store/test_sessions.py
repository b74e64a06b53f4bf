"""Workers join and exchange: numbers, what was seen, what is held."""

import asyncio

import pytest

from task_server.errors import Invalid, SessionOver
from tests.store.world import (
    Worker,
    World,
    crashed,
    failed,
    lease_of,
    released,
    spec,
    succeeded,
)


async def test_a_worker_keeps_its_id_when_it_joins_again(world: World) -> None:
    worker = await world.worker()
    first = worker.id

    await worker.join()

    assert worker.id == first


async def test_an_id_of_another_token_is_not_taken_over(world: World) -> None:
    worker = await world.worker(token=1)
    thief = Worker(world, token=2)
    thief.id = worker.id

    await thief.join()

    assert thief.id != worker.id
    await worker.exchange()


async def test_nobody_joins_as_a_plain_worker(world: World) -> None:
    await world.submit()
    dealt = await world.plain_lease(9)
    assert dealt is not None
    impostor = Worker(world, token=9)
    impostor.id = "plain-9"

    await impostor.join()

    assert impostor.id != "plain-9"
    assert (await world.plain_answer(dealt.id)).status == 200


async def test_a_session_of_another_token_is_not_known(world: World) -> None:
    worker = await world.worker(token=1)
    thief = Worker(world, token=2)
    thief.session = worker.session

    with pytest.raises(SessionOver):
        await thief.exchange(want=1)


@pytest.mark.parametrize("number", [-1, 2**53, 2**70])
async def test_a_number_out_of_range_is_refused_alone(world: World, number: int) -> None:
    worker = await world.worker()

    bad, good = await world.together(worker.exchange(number=number), world.submit())

    assert isinstance(bad, Invalid)
    assert not isinstance(good, BaseException)


# ---- numbers


async def test_a_newer_exchange_ends_the_parked_one_without_tasks(world: World) -> None:
    worker = await world.worker()
    older = asyncio.create_task(worker.take(1, wait=20))
    await asyncio.sleep(0.01)

    newer = asyncio.create_task(worker.take(1, wait=20))
    assert await older == []
    await world.submit()

    assert len(await newer) == 1


async def test_in_one_group_too(world: World) -> None:
    await world.submit()
    worker = await world.worker()

    older, newer = await world.together(worker.take(1), worker.take(1))

    assert (len(older), len(newer)) == (0, 1)


async def test_unseen_tasks_come_with_the_newest_alone(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    await worker.take(2, is_lost=True)

    older, newer = await world.together(worker.take(0), worker.take(0))

    assert (len(older), len(newer)) == (0, 2)


async def test_a_lower_number_gets_decisions_and_no_tasks(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.exchange(number=10)

    result = await worker.exchange(succeeded(dealt), want=5, number=4)

    assert [each.status for each in result.decisions] == [200]
    assert result.tasks == []


async def test_also_when_the_server_was_killed_in_between(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    for _ in range(3):
        await worker.exchange()
    await worker.take_one()
    await world.kill()

    assert await worker.take(5, number=2) == []


async def test_a_report_is_answered_at_once(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    result = await worker.exchange(succeeded(dealt), want=1, wait=20)

    assert [each.status for each in result.decisions] == [200]


async def test_what_is_said_of_reports_may_wait_for_tasks_to_come_along(world: World) -> None:
    (first,) = (await world.submit()).ids
    worker = await world.worker()
    report = succeeded(await worker.take_one())

    parked = asyncio.create_task(worker.exchange(report, want=1, wait=20, is_patient=True))
    while await world.state(first) != "succeeded":  # noqa: ASYNC110  # the store tells nobody
        await asyncio.sleep(0.001)
    await world.submit()
    result = await parked

    assert [each.status for each in result.decisions] == [200]
    assert len(result.tasks) == 1


async def test_it_waits_no_longer_than_it_may(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    report = succeeded(await worker.take_one())

    result = await worker.exchange(report, want=1, wait=0.05, is_patient=True)

    assert [each.status for each in result.decisions] == [200]


# ---- what was seen


async def test_tasks_of_a_lost_reply_come_again(world: World) -> None:
    await world.submit(count=3)
    worker = await world.worker()
    lost = await worker.take(2, is_lost=True)

    again = await worker.take(3)

    assert [each.secret for each in again[:2]] == [each.secret for each in lost]
    assert len(again) == 3


async def test_they_count_in_what_is_wanted(world: World) -> None:
    await world.submit(count=3)
    worker = await world.worker()
    await worker.take(2, is_lost=True)

    assert len(await worker.take(2)) == 2


async def test_they_come_until_they_are_seen_or_reported(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    first, second = await worker.take(2, is_lost=True)
    again = (await worker.exchange(succeeded(first), is_lost=True)).tasks
    assert [each.number for each in again] == [second.number]

    assert len(await worker.take(0)) == 1
    assert await worker.take(0) == []


async def test_seen_tasks_do_not_come_again_after_a_kill(world: World) -> None:
    await world.submit(count=3)
    worker = await world.worker()
    seen = await worker.take(2)
    await world.kill()

    assert [each.number for each in await worker.take(3)] == [seen[-1].number + 1]


async def test_unseen_tasks_come_again_after_a_kill(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    lost = await worker.take(2, is_lost=True)
    await world.kill()

    again = await worker.take(2)

    assert [(each.secret, each.payload) for each in again] == [
        (each.secret, each.payload) for each in lost
    ]


async def test_nobody_claims_to_have_seen_the_future(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    worker.seen = 1000

    assert len(await worker.take(1, is_lost=True)) == 1
    worker.seen = 0
    assert len(await worker.take(1)) == 1


async def test_a_lease_that_was_never_seen_is_no_crash(world: World) -> None:
    accepted = await world.submit()
    for _ in range(19):
        worker = await world.worker()
        assert len(await worker.take(is_lost=True)) == 1
        await world.advance(61)
        assert await world.state(accepted.ids[0]) == "delayed"
        await world.advance(1)

    worker = await world.worker()
    await worker.take(is_lost=True)
    await world.advance(61)
    assert await world.error_kind(accepted.ids[0]) == "lost"


# ---- renewing


async def test_an_exchange_renews_all_leases(world: World) -> None:
    accepted = await world.submit(count=2)
    worker = await world.worker()
    await worker.take(1)
    for _ in range(5):
        await world.advance(50)
        await worker.take(1)

    assert [await world.state(each) for each in accepted.ids] == ["running"] * 2


async def test_a_lost_session_comes_back_to_life(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    await worker.take_one()
    await world.advance(61)
    await world.advance(2)

    assert (await worker.take_one()).attempt == 2


async def test_a_session_that_was_silent_for_an_hour_is_over(world: World) -> None:
    worker = await world.worker()
    await world.advance(3700)

    with pytest.raises(SessionOver):
        await worker.exchange()


# ---- sessions that end


async def test_joining_ends_the_older_session(world: World) -> None:
    worker = await world.worker()
    older, number = worker.session, worker.number
    parked = asyncio.create_task(worker.exchange(wait=20))
    await asyncio.sleep(0.01)
    await worker.join()
    assert (await parked).tasks == []
    worker.session, worker.number = older, number

    with pytest.raises(SessionOver):
        await worker.exchange(want=1)


async def test_reports_to_an_ended_session_are_decided_first(world: World) -> None:
    await world.submit(kind=spec(max_attempts=2))
    worker = await world.worker()
    dealt = await worker.take_one()
    other = Worker(world)
    other.id = worker.id
    await other.join()

    with pytest.raises(SessionOver):
        await worker.exchange(succeeded(dealt))

    assert await world.state(dealt.id) == "succeeded"
    (decided,) = (await other.exchange(succeeded(dealt))).decisions
    assert (decided.status, decided.duplicate) == (200, True)


async def test_a_restarted_agent_delivers_its_spool(world: World) -> None:
    await world.submit(count=4, kind=spec(max_attempts=2))
    worker = await world.worker()
    done, bad, dead, silent = await worker.take(4)
    await worker.exchange()
    await worker.join()

    statuses = await worker.report(succeeded(done), failed(bad), crashed(dead))

    assert statuses == [200, 200, 200]
    states = [await world.state(each.id) for each in (done, bad, dead, silent)]
    assert states == ["succeeded", "delayed", "delayed", "delayed"]


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_nothing_is_lost_before_the_first_exchange(world: World, is_restarted: bool) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    done, silent = await worker.take(2)
    await worker.join()
    if is_restarted:
        await world.kill()
    assert await world.state(silent.id) == "running"

    assert await worker.report(succeeded(done)) == [200]

    assert await world.state(silent.id) == "delayed"


async def test_two_joins_in_a_row_leave_no_lease_behind(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.join()
    await worker.join()

    await worker.exchange()

    assert await world.state(dealt.id) == "delayed"


async def test_a_session_whose_successor_never_speaks_runs_out(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(30)
    await worker.join()

    await world.advance(31)

    assert await world.state(dealt.id) == "delayed"
    assert await worker.report(released(dealt)) == [409]


# ---- stop


async def test_a_parked_worker_is_told_of_a_cancel_at_once(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    parked = asyncio.create_task(worker.exchange(wait=20))
    await asyncio.sleep(0.01)

    await world.store.cancel(1, accepted.ids)

    async with asyncio.timeout(10):  # it would hear of it in the end
        assert (await parked).stop == [(lease_of(dealt).text, "cancelled")]


async def test_a_busy_worker_is_told_at_its_next_exchange(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.cancel(1, accepted.ids)

    result = await worker.exchange(wait=20)

    assert result.stop == [(lease_of(dealt).text, "cancelled")]
    assert (await worker.exchange()).stop == []
