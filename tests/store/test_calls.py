"""What is read of calls that have not ended."""

from __future__ import annotations

from task_server.store.records.calls import FIRST
from tests.store.world import World, batch, new_task, spec, succeeded


async def test_members_of_a_batch_that_wait_are_read_by_position(world: World) -> None:
    worker = await world.worker()
    payloads = [b'"args":[%d],"kwargs":{}' % number for number in range(5)]
    told = b'{"rows":1.0}'
    accepted = await world.submit(
        *(new_task(payload=payload, features=told) for payload in payloads), batch=batch()
    )
    number = (await world.batch(accepted.batch)).batch
    first, second = (await worker.exchange(want=2)).tasks
    await worker.exchange(succeeded(first))
    await world.submit(count=2)

    waiting = await world.store.waiting_calls(number, range(4))
    (running,) = await world.store.running_calls(number)

    assert sorted(each.payload or b"" for each in waiting) == payloads[2:4]
    assert all(each.features == told and each.spec == spec() for each in waiting)
    assert running.number == second.number
    assert running.started_at == world.clock.now and running.attempt == 1


async def test_a_batch_says_whether_it_starts_in_submit_order(world: World) -> None:
    predicted = await world.submit(new_task(), batch=batch())
    submitted = await world.submit(new_task(), batch=batch(in_order=True))

    assert not (await world.batch(predicted.batch)).in_order
    assert (await world.batch(submitted.batch)).in_order


async def test_a_lane_is_read_in_pages_from_where_the_last_ended(world: World) -> None:
    await world.submit(count=5)  # one key but for their numbers
    await world.advance(1.0)
    await world.submit(count=5)
    ((kind, _),) = await world.store.queued(None)

    pages = [await world.store.waiting_in(kind.lane, FIRST, 3)]
    while len(pages[-1]) == 3:
        pages.append(await world.store.waiting_in(kind.lane, pages[-1][-1].key, 3))

    assert [len(page) for page in pages] == [3, 3, 3, 1]
    keys = [each.key for page in pages for each in page]
    assert keys == sorted(keys) and len(set(keys)) == 10
