"""`after`: a task waits until others have succeeded, and goes with those that did not."""

import asyncio
from typing import Any

import msgspec
import pytest

from task_server.errors import Invalid
from task_server.protocol.ids import new_id, to_text
from task_server.store.states import Encoding
from task_server.store.submissions import NewTask
from tests.store.retained import KEEP, count, delete, ended, purge, succeed, young
from tests.store.world import World, batch, failed, ids, new_task, spec, succeeded


def after(*tasks: NewTask, **options: Any) -> NewTask:
    """A task that waits for these."""
    return new_task(after=tuple(task.id for task in tasks), **options)


async def error_of(world: World, task: bytes) -> dict[str, Any]:
    row = await world.task(task)
    assert row.encoding is Encoding.ERROR and row.outcome is not None
    found: dict[str, Any] = msgspec.json.decode(row.outcome)
    return found


async def test_a_task_starts_once_the_other_has_succeeded(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first)
    await world.submit(then)
    worker = await world.worker()
    dealt = await worker.take(5)
    assert ids(dealt) == [first.id]
    row = await world.task(then.id)
    assert (row.state.word, row.pending) == ("delayed", 1)
    await world.advance(100)
    assert await world.state(then.id) == "delayed"

    result = await worker.exchange(*map(succeeded, dealt), want=5)

    assert ids(result.tasks) == [then.id], "in the very exchange that told the success"
    assert await worker.report(*map(succeeded, result.tasks)) == [200]
    assert (await world.task(then.id)).pending == 0


async def test_it_goes_to_a_parked_worker_at_once(world: World) -> None:
    first = new_task()
    await world.submit(first, after(first))
    worker, parked = await world.worker(), await world.worker()
    dealt = await worker.take_one()
    waiting = asyncio.ensure_future(parked.take(1, wait=20.0))
    await asyncio.sleep(0)

    await worker.report(succeeded(dealt))

    assert len(await asyncio.wait_for(waiting, 10)) == 1


async def test_it_waits_for_all_of_them(world: World) -> None:
    first, second = new_task(), new_task()
    then = after(first, second)
    await world.submit(then, first, second)
    worker = await world.worker()
    dealt = await worker.take(5)
    assert sorted(ids(dealt)) == sorted([first.id, second.id])

    await worker.report(succeeded(dealt[0]))
    assert await worker.take(5) == []
    await worker.report(succeeded(dealt[1]))

    assert ids(await worker.take(5)) == [then.id]


async def test_two_that_end_in_one_group_let_it_go(world: World) -> None:
    first, second = new_task(), new_task()
    then = after(first, second)
    await world.submit(first, second, then)
    worker = await world.worker()
    dealt = await worker.take(5)

    await worker.report(*map(succeeded, dealt))

    assert ids(await worker.take(5)) == [then.id]


async def test_a_list_may_name_its_own_members_in_any_order(world: World) -> None:
    first, second, third = (new_task() for _ in range(3))
    third.after, second.after = (second.id, first.id), (first.id,)
    await world.submit(third, second, first, batch=batch())
    worker = await world.worker()
    order = []
    while dealt := await worker.take(5):
        assert len(dealt) == 1
        order += ids(dealt)
        await worker.report(*map(succeeded, dealt))

    assert order == [first.id, second.id, third.id]


async def test_one_name_twice_is_one(world: World) -> None:
    first = new_task()
    then = new_task(after=(first.id, first.id))
    await world.submit(first, then)
    worker = await world.worker()

    await worker.report(succeeded(await worker.take_one()))

    assert ids(await worker.take(5)) == [then.id]


async def test_what_has_succeeded_already_is_not_waited_for(world: World) -> None:
    first = new_task()
    await succeed(world, first)

    then = after(first)
    await world.submit(then)

    assert await world.state(then.id) == "queued"


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
async def test_what_can_never_start_is_cancelled(world: World, state: str) -> None:
    first = new_task()
    then = after(first, start_by=None)
    last = after(then)
    other = new_task()
    if state == "expired":
        first.start_by = world.clock.now + 1
    await world.submit(first, then, last, batch=batch())
    if state == "cancelled":
        await world.store.cancel(1, [first.id])
    elif state == "expired":
        await world.advance(2)
    else:
        worker = await world.worker()
        await worker.report(failed(await worker.take_one()))

    assert [await world.state(each.id) for each in (first, then, last)] == [
        state,
        "cancelled",
        "cancelled",
    ]
    error = await error_of(world, then.id)
    assert to_text(first.id) in error["message"] and state in error["message"]
    assert to_text(then.id) in (await error_of(world, last.id))["message"]
    assert [each.state.word for each in world.ended] == [state, "cancelled", "cancelled"]
    await world.submit(other)
    assert ids(await (await world.worker()).take(5)) == [other.id]


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
async def test_what_waits_for_one_that_ended_so_already_is_cancelled_at_once(
    world: World, state: str
) -> None:
    first, fine = new_task(), new_task()
    await ended(world, state, first)
    then = after(first, fine)
    last = after(then)

    accepted = await world.submit(fine, then, last)

    assert accepted.ids == [fine.id, then.id, last.id]
    assert [await world.state(each.id) for each in (fine, then, last)] == [
        "queued",
        "cancelled",
        "cancelled",
    ]


async def test_one_failure_is_enough(world: World) -> None:
    first, second = new_task(), new_task()
    then = after(first, second)
    await world.submit(first, second, then)
    worker = await world.worker()
    dealt = await worker.take(2)
    await worker.report(failed(dealt[0]))
    assert await world.state(then.id) == "cancelled"

    await worker.report(succeeded(dealt[1]))

    assert await world.state(then.id) == "cancelled"
    assert await worker.take(5) == []


async def test_a_failure_that_is_tried_again_lets_it_wait(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, kind=spec(max_attempts=2))
    await world.submit(then)
    worker = await world.worker()
    await worker.report(failed(await worker.take_one()))
    assert await world.state(then.id) == "delayed"
    await world.advance(100)
    await worker.report(succeeded(await worker.take_one()))

    assert ids(await worker.take(5)) == [then.id]


async def test_a_retry_of_the_other_does_not_revive_it(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, then)
    await world.store.cancel(1, [first.id])

    await world.store.retry(1, [first.id])
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(5)))

    assert await world.state(first.id) == "succeeded"
    assert await world.state(then.id) == "cancelled"


async def test_a_retried_task_waits_for_nothing_more(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, then)
    await world.store.cancel(1, [then.id])

    await world.store.retry(1, [then.id])

    worker = await world.worker()
    dealt = await worker.take(5)
    assert sorted(ids(dealt)) == sorted([first.id, then.id])
    assert await worker.report(*map(succeeded, dealt)) == [200, 200]


@pytest.mark.parametrize("is_late", [False, True])
async def test_it_still_starts_not_before_its_time(world: World, is_late: bool) -> None:
    first = new_task()
    then = after(first, run_after=world.clock.now + 50)
    await world.submit(first, then)
    worker = await world.worker()
    dealt = await worker.take_one()
    if is_late:
        await world.advance(55)
        assert await worker.take(5) == []
        await worker.report(succeeded(dealt))
    else:
        await worker.report(succeeded(dealt))
        await world.advance(49)
        assert await worker.take(5) == []
        await world.advance(1)

    assert ids(await worker.take(5)) == [then.id]


async def test_it_expires_while_it_waits(world: World) -> None:
    first = new_task()
    then = after(first, start_by=world.clock.now + 10)
    last = after(then)
    await world.submit(first, then, last)
    worker = await world.worker()
    dealt = await worker.take_one()

    await world.advance(11)

    assert await world.state(then.id) == "expired"
    assert await world.state(last.id) == "cancelled"
    await worker.report(succeeded(dealt))
    assert await worker.take(5) == []


async def test_a_task_that_waits_can_be_cancelled(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, then)

    assert await world.store.cancel(1, [then.id]) == [200]

    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))
    assert await world.state(then.id) == "cancelled"
    assert await count(world, "dependencies") == 0


async def test_a_batch_counts_what_waits_as_delayed(world: World) -> None:
    whole = batch()
    first = new_task()
    await world.submit(first, after(first), after(first), batch=whole)

    row = await world.batch(whole.id)

    assert (row.queued, row.delayed, row.total) == (1, 2, 3)
    assert await world.store.cancel_batch(1, whole.id) == 3


# ---- what is refused


async def refused(world: World, *tasks: NewTask) -> list[tuple[object, object]]:
    """Which tasks are refused, and for which field."""
    before = await count(world, "tasks")
    with pytest.raises(Invalid) as caught:
        await world.submit(*tasks, batch=batch())
    assert await count(world, "tasks") == before
    assert await count(world, "batches") == 0
    return [(each["index"], each["field"]) for each in caught.value.errors]


async def test_a_task_that_is_not_there_cannot_be_waited_for(world: World) -> None:
    here = new_task()
    await world.submit(here)

    found = await refused(
        world, after(here), new_task(after=(new_id(),)), new_task(after=(here.id, new_id()))
    )

    assert found == [(1, "after"), (2, "after")]


async def test_anothers_task_is_as_absent(world: World) -> None:
    theirs = new_task()
    await world.submit(theirs, kind=spec(owner=2))

    assert await refused(world, after(theirs)) == [(0, "after")]


async def test_a_deleted_task_cannot_be_waited_for(world: World) -> None:
    gone = new_task()
    await succeed(world, gone)
    await delete(world, 1, gone.id)

    assert await refused(world, after(gone)) == [(0, "after")]


async def test_tasks_cannot_wait_for_each_other(world: World) -> None:
    one, two, three, free = (new_task() for _ in range(4))
    one.after, two.after, three.after = (three.id,), (one.id, free.id), (two.id,)

    assert await refused(world, free, one, two, three) == [(1, "after"), (2, "after"), (3, "after")]


async def test_a_task_cannot_wait_for_itself(world: World) -> None:
    task = new_task()
    task.after = (task.id,)

    assert await refused(world, new_task(), task) == [(1, "after")]


# ---- together, and again


async def test_the_same_task_again_waits_for_nothing_twice(world: World) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, then)

    again = await world.submit(first, then)

    assert again.duplicate
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))
    assert ids(await worker.take(5)) == [then.id]


async def test_the_other_may_come_end_or_be_cancelled_in_the_same_group(world: World) -> None:
    first, second = new_task(), new_task()
    await world.submit(first)
    worker = await world.worker()
    dealt = await worker.take_one()
    one, two, three = after(first), after(second), after(first, second)

    results = await world.together(
        worker.exchange(succeeded(dealt)),
        world.submit(second),
        world.submit(one, two, three),
        world.store.cancel(1, [second.id]),
    )

    assert results[3] == [200]
    assert await world.state(one.id) == "queued"
    assert await world.state(two.id) == await world.state(three.id) == "cancelled"


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("is_success", [False, True])
async def test_it_waits_over_a_restart(world: World, is_killed: bool, is_success: bool) -> None:
    first = new_task()
    then = after(first)
    await world.submit(first, then)
    worker = await world.worker()
    dealt = await worker.take_one()
    await (world.kill() if is_killed else world.restart())

    await worker.report(succeeded(dealt) if is_success else failed(dealt))

    assert await world.state(then.id) == ("queued" if is_success else "cancelled")


@pytest.mark.parametrize("state", ["succeeded", "failed"])
async def test_what_is_no_longer_kept_counts_as_what_it_was(world: World, state: str) -> None:
    first = young(world)
    await ended(world, state, first)
    world.clock.advance(KEEP.unread)
    assert await purge(world) == 1

    then = after(first)
    await world.submit(then)

    assert await world.state(then.id) == ("queued" if state == "succeeded" else "cancelled")


async def test_the_other_may_be_purged_while_a_third_is_waited_for(world: World) -> None:
    first, second = new_task(), new_task()
    then = after(first, second)
    await world.submit(first, second, then)
    worker = await world.worker()
    dealt = await worker.take(2)
    await worker.report(succeeded(dealt[0]))
    await worker.exchange()
    world.clock.advance(KEEP.unread)
    assert await purge(world) == 1

    await worker.report(succeeded(dealt[1]))

    assert ids(await worker.take(5)) == [then.id]


async def test_a_lock_that_failed_fails_what_waits_for_another_too(world: World) -> None:
    first = new_task()
    await world.submit(first)
    then = after(first)
    await world.submit(then, kind=spec(request="numpy", environment=None))

    await world.store.lock_failed("numpy", "no such package")

    assert await world.state(then.id) == "failed"
    assert await world.error_kind(then.id) == "environment"
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))
    assert await worker.take(5) == []
