"""What happens to leased tasks of a batch whose unstarted tasks are cancelled."""

import asyncio

import pytest

from task_server.store.attempts import Dealt, Used
from task_server.store.postgres import cancel as postgres_cancel
from task_server.store.sessions import UNSTARTED
from task_server.store.sqlite import cancel as sqlite_cancel
from tests.store.world import (
    Worker,
    World,
    batch,
    failed,
    held,
    lease_of,
    new_task,
    released,
    spec,
    succeeded,
)


async def withdrawn(world: World, worker: Worker, **options: int) -> Dealt:
    """A task that was leased when the unstarted ones of its batch were cancelled."""
    made = batch()
    await world.submit(batch=made, kind=spec(**options))
    dealt = await worker.take_one()
    assert await world.store.cancel_batch(1, made.id, unstarted=True) == 0
    assert await world.state(dealt.id) == "running"
    return dealt


@pytest.mark.parametrize("unfit", [False, True])
@pytest.mark.parametrize("is_restarted", [False, True])
async def test_what_is_given_back_ends_as_cancelled(
    world: World, unfit: bool, is_restarted: bool
) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)
    if is_restarted:
        await world.kill()

    assert await worker.report(released(dealt, unfit=unfit)) == [200]

    assert await world.state(dealt.id) == "cancelled"
    assert await worker.take(5) == []
    counts = await world.batch((await world.task(dealt.id)).batch)
    assert (counts.cancelled, counts.running, counts.total) == (1, 0, 1)
    assert await worker.report(succeeded(dealt)) == [410]
    await world.recount()


async def test_what_was_never_told_as_running_and_is_not_held_ends_as_cancelled(
    world: World,
) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)

    await worker.exchange(held=[])

    assert await world.state(dealt.id) == "cancelled"


async def test_what_has_started_goes_on_and_is_retried(world: World) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker, max_attempts=2)

    assert await worker.report(failed(dealt)) == [200]
    await world.advance(5)
    again = await worker.take_one()
    assert await worker.report(released(again)) == [200]
    (last,) = await worker.take(5)

    assert (dealt.id, last.attempt) == (last.id, 3)
    assert await worker.report(succeeded(last)) == [200]


async def test_what_is_given_back_though_it_ran_waits_again(world: World) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)
    report = released(dealt)
    report.used = Used()

    assert await worker.report(report) == [200]

    assert await world.state(dealt.id) == "queued"


async def test_what_was_given_back_can_be_tried_again(world: World) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)
    await worker.report(released(dealt))

    assert await world.store.retry(1, [dealt.id]) == [200]
    again = await worker.take_one()
    await worker.report(released(again))

    assert await world.state(dealt.id) == "queued"


async def test_a_parked_worker_is_asked_at_once_and_once(world: World) -> None:
    made = batch()
    await world.submit(batch=made)
    worker = await world.worker()
    dealt = await worker.take_one()
    parked = asyncio.create_task(worker.exchange(wait=20))
    await asyncio.sleep(0.01)

    await world.store.cancel_batch(1, made.id, unstarted=True)

    async with asyncio.timeout(10):  # it would hear of it in the end
        assert (await parked).stop == [(lease_of(dealt).text, UNSTARTED)]
    assert (await worker.exchange()).stop == []


async def test_what_was_asked_for_can_still_be_stopped(world: World) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)

    await world.store.cancel(1, [dealt.id])

    assert (lease_of(dealt).text, "cancelled") in (await worker.exchange()).stop


async def test_what_was_asked_for_and_is_held_in_vain_is_told(world: World) -> None:
    worker = await world.worker()
    dealt = await withdrawn(world, worker)
    await world.advance(61)

    result = await worker.exchange(held=[held(dealt)])

    assert (lease_of(dealt).text, "gone") in result.stop


async def test_a_plain_worker_goes_on(world: World) -> None:
    made = batch()
    await world.submit(batch=made)
    dealt = await world.plain_lease()
    assert dealt is not None

    assert await world.store.cancel_batch(1, made.id, unstarted=True) == 0

    assert (await world.plain_answer(dealt.id)).status == 200


async def test_what_runs_holds_up_no_large_batch(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sqlite_cancel, postgres_cancel):
        monkeypatch.setattr(module, "LIMIT", 3)
    made = batch()
    await world.submit(*[new_task() for _ in range(12)], batch=made)
    worker = await world.worker()
    ahead = await worker.take(5)

    assert await world.store.cancel_batch(1, made.id, unstarted=True) == 7

    assert {lease for lease, _ in (await worker.exchange()).stop} == {
        lease_of(each).text for each in ahead
    }
    assert (await world.batch(made.id)).cancelled == 7
