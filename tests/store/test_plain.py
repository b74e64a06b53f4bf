"""Plain workers: one token, no session, leases with an end of their own."""

import asyncio

import pytest

from task_server.store.sessions import PLAIN_SECONDS
from tests.store.world import World, new_task, spec, succeeded


async def test_a_plain_worker_leases_and_answers(world: World) -> None:
    task = new_task()
    await world.submit(task)

    dealt = await world.plain_lease()
    assert dealt is not None and dealt.id == task.id
    decided = await world.plain_answer(task.id, b"3")

    assert (decided.status, decided.duplicate) == (200, False)
    assert (await world.task(task.id)).outcome == b"3"


async def test_it_gets_only_what_it_can_run(world: World) -> None:
    await world.submit(kind=spec(plain=False))

    assert await world.plain_lease() is None


async def test_it_waits_for_a_task(world: World) -> None:
    parked = asyncio.create_task(world.plain_lease(wait=20))
    await asyncio.sleep(0.01)
    accepted = await world.submit()

    dealt = await parked

    assert dealt is not None and dealt.id == accepted.ids[0]


async def test_several_requests_of_one_token_wait_together(world: World) -> None:
    parked = [asyncio.create_task(world.plain_lease(wait=20)) for _ in range(3)]
    await asyncio.sleep(0.01)

    accepted = await world.submit(count=3)

    dealt = [await each for each in parked]
    assert sorted(each.id for each in dealt if each) == sorted(accepted.ids)


async def test_a_wait_that_ends_gives_nothing(world: World) -> None:
    assert await world.plain_lease(wait=0.02) is None


async def test_its_lease_has_its_own_term(world: World) -> None:
    accepted = await world.submit()
    await world.store.plain_lease(9, wait_until=0.0, seconds=900)

    await world.advance(899)
    assert await world.state(accepted.ids[0]) == "running"
    await world.advance(1)
    assert await world.state(accepted.ids[0]) == "delayed"


@pytest.mark.parametrize("stated,seconds", [(None, 900), (0.0, 900), (60.0, 900), (3600.0, 3660)])
async def test_it_lasts_as_long_as_the_stated_timeout(
    world: World, stated: float | None, seconds: float
) -> None:
    accepted = await world.submit(kind=spec(timeout=stated))
    await world.store.plain_lease(9, wait_until=0.0, seconds=900)

    await world.advance(seconds - 1)
    assert await world.state(accepted.ids[0]) == "running"
    await world.advance(1)
    assert await world.state(accepted.ids[0]) == "delayed"


async def test_a_lost_plain_lease_is_a_crash(world: World) -> None:
    accepted = await world.submit()
    for _ in range(3):
        assert await world.plain_lease() is not None
        await world.advance(60)
        await world.advance(10)

    assert await world.error_kind(accepted.ids[0]) == "lost"


async def test_the_first_answer_of_a_shared_token_wins(world: World) -> None:
    task = new_task()
    await world.submit(task)
    await world.plain_lease()
    await world.advance(60)
    await world.advance(2)
    await world.plain_lease()

    first = await world.plain_answer(task.id, b"1")
    second = await world.plain_answer(task.id, b"2")
    again = await world.plain_answer(task.id, b"1")

    assert [first.status, second.status, again.status] == [200, 409, 200]
    assert (await world.task(task.id)).outcome == b"1"


async def test_another_token_is_not_asked(world: World) -> None:
    task = new_task()
    await world.submit(task)
    await world.plain_lease(9)

    assert (await world.plain_answer(task.id, token=8)).status == 404
    assert (await world.plain_answer(new_task().id)).status == 404


async def test_a_cancelled_task_is_gone_for_it(world: World) -> None:
    task = new_task()
    await world.submit(task)
    await world.plain_lease()
    await world.store.cancel(1, [task.id])

    assert (await world.plain_answer(task.id)).status == 410


async def test_its_failure_is_retried_by_the_tasks_policy(world: World) -> None:
    task = new_task()
    await world.submit(task, kind=spec(max_attempts=2))
    await world.plain_lease()

    assert (await world.plain_answer(task.id, None)).status == 200
    assert await world.state(task.id) == "delayed"
    await world.advance(5)
    await world.plain_lease()
    assert (await world.plain_answer(task.id, None)).status == 200
    assert await world.state(task.id) == "failed"


async def test_an_old_plain_lease_does_not_end_a_later_one_of_a_session(world: World) -> None:
    accepted = await world.submit()
    assert await world.plain_lease() is not None
    await world.store.cancel(1, accepted.ids)
    await world.store.retry(1, accepted.ids)
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(40)
    await worker.exchange()

    await world.advance(30)

    assert await world.state(accepted.ids[0]) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


async def test_a_restart_gives_it_a_full_term_at_least(world: World) -> None:
    long, short = await world.submit(), await world.submit()
    await world.store.plain_lease(9, wait_until=0.0, seconds=900)
    await world.store.plain_lease(9, wait_until=0.0, seconds=60)
    world.clock.advance(59)
    await world.kill()

    await world.advance(59)
    assert await world.state(short.ids[0]) == "running"
    await world.advance(1)
    assert await world.state(short.ids[0]) == "delayed"
    assert await world.state(long.ids[0]) == "running"
    assert (await world.plain_answer(long.ids[0])).status == 200


async def plain_workers(world: World) -> int:
    """How many are shown as there."""
    return sum(session.facts.is_plain for session in await world.store.sessions())


async def test_it_is_there_while_it_asks_and_while_it_has_a_task(world: World) -> None:
    await world.plain_lease()
    assert await plain_workers(world) == 1
    await world.advance(PLAIN_SECONDS + 1)
    assert await plain_workers(world) == 0

    accepted = await world.submit()
    await world.store.plain_lease(9, wait_until=0.0, seconds=900)
    await world.advance(PLAIN_SECONDS + 1)
    assert await plain_workers(world) == 1
    await world.plain_answer(accepted.ids[0])
    assert await plain_workers(world) == 0
