"""Batches: opened, added to, closed, counted."""

import pytest

from task_server.errors import Conflict, NotFound
from task_server.protocol.ids import new_id, new_ids
from task_server.store.sqlite.cancel import LIMIT
from tests.store.world import World, batch, failed, new_task, spec, succeeded


async def test_a_list_makes_a_closed_batch(world: World) -> None:
    made = batch(name="night")

    accepted = await world.submit(count=3, batch=made)

    assert accepted.batch == made.id
    row = await world.batch(made.id)
    assert (row.total, row.queued, row.is_open, row.name) == (3, 3, False, "night")


async def test_an_open_batch_takes_tasks_until_it_is_closed(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    first = await world.submit(count=2, into=opened.id)
    second = await world.submit(count=3, into=opened.id)

    assert await world.store.close_batch(1, opened.id)

    assert first.batch == second.batch == opened.id
    assert (await world.batch(opened.id)).total == 5
    with pytest.raises(Conflict):
        await world.submit(into=opened.id)


async def test_opening_it_again_finds_it(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)

    again = await world.store.open_batch(1, opened)

    assert (again.batch, again.duplicate) == (opened.id, True)


@pytest.mark.parametrize("owner,digest", [(1, b"x" * 16), (2, b"d" * 16)])
async def test_its_id_is_taken_once(world: World, owner: int, digest: bytes) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    other = batch(id=opened.id, digest=digest, is_open=True)

    with pytest.raises(Conflict):
        await world.store.open_batch(owner, other)
    with pytest.raises(Conflict):
        await world.submit(batch=other, kind=spec(owner=owner))


async def test_another_owner_neither_adds_nor_closes(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)

    with pytest.raises(NotFound):
        await world.submit(into=opened.id, kind=spec(owner=2))
    assert not await world.store.close_batch(2, opened.id)
    assert await world.store.close_batch(None, opened.id), "an admin may"


async def test_a_repeated_request_finds_its_batch(world: World) -> None:
    made, tasks = batch(), [new_task(), new_task()]
    await world.submit(*tasks, batch=made)

    again = await world.submit(*tasks, batch=made)

    assert (again.batch, again.ids, again.duplicate) == (made.id, [t.id for t in tasks], True)
    assert (await world.batch(made.id)).total == 2


async def test_a_repeated_request_whose_ids_the_server_made_finds_them(world: World) -> None:
    made, own = batch(), new_task()
    first = await world.submit(new_task(digest=None), own, new_task(digest=None), batch=made)

    again = await world.submit(new_task(digest=None), own, new_task(digest=None), batch=made)

    assert (again.ids, again.duplicate) == (first.ids, True)
    assert (await world.batch(made.id)).total == 3


async def test_a_repeated_list_in_one_group_makes_one_batch(world: World) -> None:
    made = batch()
    requests = [world.submit(new_task(digest=None), batch=made) for _ in range(3)]

    accepted = await world.together(*requests)

    assert len({each.ids[0] for each in accepted}) == 1
    assert (await world.batch(made.id)).total == 1


async def test_positions_follow_the_lists(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    first = await world.submit(count=2, into=opened.id)
    second = await world.submit(count=2, into=opened.id)
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(4)))

    assert {each.id: each.position for each in world.ended} == {
        identifier: position for position, identifier in enumerate(first.ids + second.ids)
    }


async def test_ends_are_counted_by_state(world: World) -> None:
    made = batch()
    accepted = await world.submit(
        *[new_task() for _ in range(4)],
        new_task(start_by=world.clock.now + 5, run_after=world.clock.now + 90),
        batch=made,
    )
    worker = await world.worker()
    first, second = await worker.take(2)
    await worker.report(succeeded(first), failed(second))
    await world.store.cancel(1, [accepted.ids[2]])
    await world.advance(6)

    row = await world.batch(made.id)

    assert (row.succeeded, row.failed, row.cancelled, row.expired) == (1, 1, 1, 1)
    assert (row.queued, row.ended) == (1, 4)


async def test_a_retried_member_is_not_counted_as_ended(world: World) -> None:
    made = batch()
    accepted = await world.submit(count=2, batch=made)
    worker = await world.worker()
    await worker.report(*map(failed, await worker.take(2)))

    await world.store.retry(1, accepted.ids)

    assert (await world.batch(made.id)).queued == 2
    await worker.report(*map(succeeded, await worker.take(2)))
    row = await world.batch(made.id)
    assert (row.failed, row.succeeded) == (0, 2)


async def test_a_member_failed_and_retried_in_one_group_is_counted_right(world: World) -> None:
    made = batch()
    accepted = await world.submit(batch=made)
    worker = await world.worker()
    dealt = await worker.take_one()

    _, statuses = await world.together(
        worker.exchange(failed(dealt)), world.store.retry(1, accepted.ids)
    )

    assert statuses == [200]
    row = await world.batch(made.id)
    assert (row.failed, row.queued) == (0, 1)


async def test_cancelling_a_batch_closes_it_and_ends_what_is_open(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    await world.submit(
        *[new_task() for _ in range(3)], new_task(run_after=world.clock.now + 9), into=opened.id
    )
    worker = await world.worker()
    done, running = await worker.take(2)
    await worker.report(succeeded(done))

    assert await world.store.cancel_batch(1, opened.id) == 3

    row = await world.batch(opened.id)
    assert (row.cancelled, row.succeeded, row.is_open) == (3, 1, False)
    assert await worker.report(succeeded(running)) == [410]
    assert await worker.take(5) == []
    assert await world.store.cancel_batch(1, opened.id) == 0


async def test_what_has_not_started_of_a_batch_can_be_cancelled_alone(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    await world.submit(
        *[new_task() for _ in range(3)], new_task(run_after=world.clock.now + 9), into=opened.id
    )
    worker = await world.worker()
    (running,) = await worker.take(1)

    assert await world.store.cancel_batch(1, opened.id, unstarted=True) == 3

    row = await world.batch(opened.id)
    assert (row.cancelled, row.running, row.is_open) == (3, 1, False)
    assert await worker.report(succeeded(running)) == [200]


async def test_only_its_owner_cancels_a_batch(world: World) -> None:
    made = batch()
    await world.submit(count=2, batch=made)

    assert await world.store.cancel_batch(2, made.id) is None
    assert await world.store.cancel_batch(1, new_id()) is None
    assert await world.store.cancel_batch(None, made.id) == 2


async def test_a_batch_larger_than_a_group_is_cancelled_whole(world: World) -> None:
    made = batch()
    tasks = [new_task(identifier) for identifier in new_ids(LIMIT + 500)]
    await world.submit(*tasks, batch=made)

    assert await world.store.cancel_batch(1, made.id) == LIMIT + 500

    assert (await world.batch(made.id)).cancelled == LIMIT + 500
