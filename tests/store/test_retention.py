"""How long ended tasks are kept: T14, and what goes with them."""

from typing import Any

import pytest

from task_server.errors import Conflict, Gone
from task_server.protocol.ids import new_id
from task_server.store.kinds import UNTIL_READ
from task_server.store.records import leftovers
from task_server.store.records.retention import AGAIN_SECONDS, Keep
from task_server.store.rows import TaskFilter
from task_server.store.submissions import IdempotencyKey
from tests.store.retained import DAY, KEEP, count, delete, ended, purge, succeed, young
from tests.store.world import BODY, World, batch, failed, new_task, released, spec, succeeded


async def number_of(world: World, task: bytes) -> int:
    return (await world.task(task)).number


async def read(world: World, task: bytes) -> None:
    """The owner reads the outcome now."""
    await world.store.note_read([await number_of(world, task)], now=world.clock.now)


async def test_an_answer_that_nobody_read_is_kept_for_its_time(world: World) -> None:
    task = new_task()
    await succeed(world, task)

    world.clock.advance(KEEP.unread - 1)
    assert await purge(world) == 0
    assert await world.state(task.id) == "succeeded"
    world.clock.advance(1)

    assert await purge(world) == 1
    assert await world.store.task(task.id, None) is None
    assert await count(world, "tasks") == 0


async def test_a_read_answer_goes_some_time_after_its_first_read(world: World) -> None:
    first, second = new_task(), new_task()
    await succeed(world, first, second)
    world.clock.advance(50)
    await read(world, first.id)
    world.clock.advance(KEEP.read - 1)
    await read(world, first.id)
    assert await purge(world) == 0
    world.clock.advance(1)

    assert await purge(world) == 1

    assert await world.store.task(first.id, None) is None
    assert await world.state(second.id) == "succeeded"


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired"])
async def test_what_ended_without_an_answer_is_kept_for_its_own_time(
    world: World, state: str
) -> None:
    task = new_task()
    await ended(world, state, task)
    await read(world, task.id)

    world.clock.advance(KEEP.failed - 1)
    assert await purge(world) == 0
    world.clock.advance(1)

    assert await purge(world) == 1


async def test_what_has_not_ended_is_never_purged(world: World) -> None:
    queued, delayed, running, given_back = (new_task() for _ in range(4))
    await world.submit(running, given_back, kind=spec(max_attempts=2))
    worker = await world.worker()
    first, second = await worker.take(2)
    await worker.report(failed(first), released(second))
    await world.advance(100)
    await worker.take(1)
    delayed.run_after = world.clock.now + 9 * KEEP.unread
    await world.submit(queued, delayed)
    numbers = [row.number for row in await world.store.tasks(TaskFilter(owner=None))]
    world.clock.advance(8 * KEEP.unread)

    assert await purge(world) == 0
    assert await world.store.purge(numbers, KEEP, now=world.clock.now) == 0
    assert await count(world, "tasks") == 4


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled", "expired"])
@pytest.mark.parametrize("seconds", [0.0, 50.0, 5000.0])
async def test_a_tasks_own_keep_rules(world: World, state: str, seconds: float) -> None:
    task = new_task(start_by=world.clock.now + 1 if state == "expired" else None)
    await world.submit(task, kind=spec(keep=seconds))
    worker = await world.worker()
    if state in ("succeeded", "failed"):
        dealt = await worker.take_one()
        await worker.report(succeeded(dealt) if state == "succeeded" else failed(dealt))
    elif state == "cancelled":
        await world.store.cancel(1, [task.id])
    else:
        await world.advance(2)
    await read(world, task.id)
    if seconds:
        world.clock.advance(seconds - 1)
        assert await purge(world) == 0
        world.clock.advance(1)

    assert await purge(world) == 1
    assert await world.store.task(task.id, None) is None


async def test_what_is_kept_until_read_goes_soon_after(world: World) -> None:
    task = new_task()
    await succeed(world, task, kind=spec(keep=UNTIL_READ))
    world.clock.advance(KEEP.unread - 100)
    assert await purge(world) == 0
    await read(world, task.id)
    world.clock.advance(AGAIN_SECONDS - 1)
    assert await purge(world) == 0
    world.clock.advance(1)

    assert await purge(world) == 1


async def test_what_is_kept_until_read_and_never_is_goes_as_any_other(world: World) -> None:
    await succeed(world, new_task(), kind=spec(keep=UNTIL_READ))

    world.clock.advance(KEEP.unread)

    assert await purge(world) == 1


async def test_payloads_go_on_time_and_the_row_once_its_id_cannot_be_taken_again(
    world: World,
) -> None:
    task = young(world, payload=b'"args":["%s"],"kwargs":{}' % (b"x" * 5000))
    await succeed(world, task, answer=b'"%s"' % (b"y" * 5000))
    world.clock.advance(KEEP.unread)

    assert await purge(world) == 1
    assert await purge(world) == 0
    assert await world.store.task(task.id, 1) is None
    assert await world.store.is_gone(task.id, 1)
    assert await world.store.is_gone(task.id, None)
    assert not await world.store.is_gone(task.id, 2), "another's is as absent"
    assert (await count(world, "tasks"), await count(world, "payloads")) == (1, 0)
    assert await world.store.tasks(TaskFilter(owner=None)) == []
    world.clock.advance(DAY - KEEP.unread)
    assert await purge(world) == 0, "its id is a day old, and not older"
    world.clock.advance(0.01)

    assert await purge(world) == 1
    assert await count(world, "tasks") == 0


async def test_an_id_that_is_no_longer_kept_is_not_taken_again(world: World) -> None:
    task = young(world)
    await succeed(world, task)
    world.clock.advance(KEEP.unread)
    await purge(world)

    again = await world.submit(new_task(task.id))
    with pytest.raises(Conflict):
        await world.submit(new_task(task.id, digest=b"o" * 16))

    assert (again.ids, again.duplicate) == ([task.id], True)
    worker = await world.worker()
    assert await worker.take(5) == []


async def test_nothing_is_done_to_what_is_no_longer_kept(world: World) -> None:
    task = young(world)
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(failed(dealt))
    world.clock.advance(KEEP.failed)
    await purge(world)

    assert await world.store.cancel(1, [task.id]) == [410]
    assert await world.store.retry(1, [task.id]) == [410]
    assert await world.store.cancel(2, [task.id]) == [404]
    assert await worker.report(succeeded(dealt)) == [410]
    assert await worker.report(failed(dealt)) == [410]
    assert await worker.report(released(dealt)) == [409]


async def test_what_was_retried_since_it_was_found_is_left_alone(world: World) -> None:
    again, over = new_task(), new_task()
    for task in (again, over):
        await ended(world, "failed", task)
    world.clock.advance(KEEP.failed)
    at = await world.store.begin_pass(KEEP, now=world.clock.now)
    due, _ = await world.store.find_due(KEEP, at, now=world.clock.now)
    await world.store.retry(1, [again.id, over.id])
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))

    assert sorted(due) == [await number_of(world, each.id) for each in (again, over)]
    assert await world.store.purge(due, KEEP, now=world.clock.now) == 0


async def test_a_retried_task_is_unread(world: World) -> None:
    task = new_task()
    await ended(world, "failed", task)
    await read(world, task.id)
    await world.store.retry(1, [task.id])
    await read(world, task.id)
    worker = await world.worker()
    world.clock.advance(KEEP.read)
    await worker.report(succeeded(await worker.take_one()))

    world.clock.advance(KEEP.unread - 1)

    assert await purge(world) == 0


async def test_a_pass_goes_piece_by_piece(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("task_server.store.records.retention.PIECE", 3)
    tasks = [new_task() for _ in range(10)]
    await succeed(world, *tasks)
    for task in tasks[:5]:
        await read(world, task.id)
    world.clock.advance(KEEP.read)
    now, pieces = world.clock.now, []
    world.has_purged = True
    at = await world.store.begin_pass(KEEP, now=now)
    while at is not None:
        numbers, at = await world.store.find_due(KEEP, at, now=now)  # type: ignore[assignment]
        pieces.append(len(numbers))

    assert pieces[:2] == [3, 2] and sum(pieces) == 5
    assert await purge(world) == 5


async def test_a_pass_ends_where_nothing_can_be_due(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.records.retention.PIECE", 3)
    await succeed(world, *[new_task() for _ in range(6)])
    world.clock.advance(KEEP.unread)
    await succeed(world, *[new_task() for _ in range(9)])

    now, steps = world.clock.now, 0
    at = await world.store.begin_pass(KEEP, now=now)
    while at is not None:
        _, at = await world.store.find_due(KEEP, at, now=now)  # type: ignore[assignment]
        steps += 1

    assert steps <= 5, "two pieces, one that is too young, and the end of the servers"


async def test_a_pass_looks_at_young_ends_where_some_are_kept_for_less_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.records.retention.PIECE", 3)
    for _ in range(4):
        await succeed(world, new_task(), new_task(), kind=spec(keep=10.0))
        world.clock.advance(1)
    world.clock.advance(10)

    assert await purge(world) == 8


async def test_numbers_and_places_are_not_given_again(world: World) -> None:
    await succeed(world, *[new_task() for _ in range(3)])
    world.clock.advance(KEEP.unread)
    assert await purge(world) == 3
    await world.kill()

    task = new_task()
    await succeed(world, task)

    assert world.ended[-1].n > 3
    assert await number_of(world, task.id) > 3


async def test_purging_outlives_a_kill(world: World) -> None:
    whole, emptied = new_task(), young(world)
    await succeed(world, whole, emptied)
    world.clock.advance(KEEP.unread)
    await purge(world)

    await world.kill()

    assert await world.store.task(whole.id, None) is None
    assert await world.store.is_gone(emptied.id, 1)


# ---- batches


async def test_a_batch_keeps_its_counts_while_its_members_go(world: World) -> None:
    whole = batch()
    accepted = await world.submit(*[new_task() for _ in range(4)], batch=whole)
    worker = await world.worker()
    dealt = await worker.take(3)
    await worker.report(*map(succeeded, dealt))
    world.clock.advance(KEEP.unread)
    assert await purge(world) == 3

    row = await world.batch(whole.id)

    assert (row.total, row.succeeded, row.queued, row.purged) == (4, 3, 1, 3)
    assert await world.store.answers_in_order(row.batch, 0, 10) == []
    assert await world.store.answers_as_ended(row.batch, {}, 10) == []
    left = [each for each in accepted.ids if each not in {one.id for one in dealt}]
    assert await world.state(left[0]) == "queued"
    position = await world.store.next_position(row.batch, 0)
    assert position == accepted.ids.index(left[0])
    assert await world.store.next_position(row.batch, position + 1) is None


async def test_members_without_payloads_count_as_purged_once(world: World) -> None:
    whole = batch()
    await world.submit(*[young(world) for _ in range(3)], batch=whole)
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(2)))
    world.clock.advance(KEEP.unread)
    await purge(world)
    row = await world.batch(whole.id)
    assert row.purged == 2
    assert await world.store.answers_in_order(row.batch, 0, 10) == []
    assert await world.store.answers_as_ended(row.batch, {}, 10) == []
    world.clock.advance(DAY)
    assert await purge(world) == 2

    assert (await world.batch(whole.id)).purged == 2


async def leave(world: World) -> None:
    while await world.store.remove_leftovers(KEEP, now=world.clock.now):
        pass


async def test_a_batch_goes_when_all_its_members_are_gone(world: World) -> None:
    whole, other = batch(), batch()
    await succeed(world, new_task(), batch=whole)
    await world.submit(batch=other)
    world.clock.advance(KEEP.unread)
    await leave(world)
    assert await world.store.batch(whole.id, None) is not None
    await purge(world)

    await leave(world)

    assert await world.store.batch(whole.id, None) is None
    assert await world.store.batch(other.id, None) is not None


async def test_one_that_cannot_go_yet_holds_up_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.records.leftovers.PIECE", 1)
    first, second = batch(), batch()
    await succeed(world, young(world), batch=first)
    await succeed(world, new_task(), batch=second)
    world.clock.advance(KEEP.unread)
    assert await purge(world) == 2

    await leave(world)

    assert await world.store.batch(first.id, None) is not None, "its member is emptied only"
    assert await world.store.batch(second.id, None) is None


async def test_a_batch_with_a_young_id_stays(world: World) -> None:
    whole = batch(id=new_id(at=world.clock.now))
    await succeed(world, new_task(), batch=whole)
    world.clock.advance(KEEP.unread)
    await purge(world)

    await leave(world)
    assert await world.store.batch(whole.id, None) is not None
    world.clock.advance(DAY)
    await leave(world)

    assert await world.store.batch(whole.id, None) is None


async def test_an_open_batch_without_members_is_kept_for_a_while(world: World) -> None:
    empty, filled = batch(is_open=True), batch(is_open=True)
    for each in (empty, filled):
        await world.store.open_batch(1, each)
    await succeed(world, new_task(), into=filled.id)
    world.clock.advance(DAY - 1)
    await purge(world)
    await leave(world)
    assert await world.store.batch(empty.id, 1) is not None
    world.clock.advance(1)

    await leave(world)

    assert await world.store.batch(empty.id, 1) is None
    assert await world.store.batch(filled.id, 1) is None


async def test_a_batch_that_is_filled_meanwhile_stays(world: World) -> None:
    whole = batch(is_open=True)
    await world.store.open_batch(1, whole)
    world.clock.advance(DAY)
    store: Any = world.store  # the two steps of its `remove_leftovers`
    found = await store.read(lambda rows: leftovers.empty_batches(rows, KEEP, now=world.clock.now))

    await world.submit(into=whole.id)
    removed = await store.write(lambda rows: leftovers.remove_batches(rows, found))

    assert (len(found), removed) == (1, 0)
    assert (await world.batch(whole.id)).queued == 1


# ---- what else is left


async def test_a_key_goes_with_its_first_task_and_after_a_week(world: World) -> None:
    lasting, passing = IdempotencyKey("lasting", BODY), IdempotencyKey("passing", BODY)
    await world.submit(new_task(), key=lasting)
    await succeed(world, new_task(), key=passing, kind=spec(priority=1))
    world.clock.advance(6 * DAY)
    await purge(world)
    await leave(world)
    assert await count(world, "submit_keys") == 2
    assert (await world.submit(new_task(), key=passing)).duplicate
    world.clock.advance(DAY + 1)

    await leave(world)

    assert await count(world, "submit_keys") == 1
    assert (await world.submit(new_task(), key=lasting)).duplicate


async def test_a_key_whose_task_goes_later_goes_later(world: World) -> None:
    task = new_task()
    await world.submit(task, key=IdempotencyKey("k", BODY))
    world.clock.advance(8 * DAY)
    await leave(world)
    await world.store.cancel(1, [task.id])
    world.clock.advance(DAY + 1)
    await purge(world)

    await leave(world)

    assert await count(world, "submit_keys") == 0


async def test_many_keys_of_one_moment_all_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.records.leftovers.PIECE", 3)
    for n in range(10):
        await succeed(world, new_task(), key=IdempotencyKey(f"k{n}", BODY))
    world.clock.advance(8 * DAY)
    await purge(world)

    await leave(world)

    assert await count(world, "submit_keys") == 0


async def test_ended_sessions_and_workers_go_after_the_tasks(world: World) -> None:
    gone, alive = await world.worker(), await world.worker()
    await world.submit(kind=spec(max_attempts=2))
    dealt = await gone.take_one()
    for _ in range(3):
        await alive.join()
    await alive.exchange()
    await world.advance(3000)
    await leave(world)
    assert await count(world, "sessions") == 5

    for _ in range(32):
        await alive.exchange()
        await world.advance(3000)
    await leave(world)

    assert await count(world, "sessions") == 1
    assert await count(world, "workers") == 1
    assert await alive.report(succeeded(dealt)) == [404]
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))


async def test_a_session_that_is_not_over_or_holds_a_task_stays(world: World) -> None:
    assert await world.plain_lease() is None
    worker = await world.worker()
    await world.submit()
    await worker.take_one()
    await worker.join()
    world.clock.advance(9 * DAY)  # and nobody has swept: the server was away

    await leave(world)

    assert await count(world, "sessions") == 3
    assert await count(world, "workers") == 2


# ---- deleting


async def test_a_deleted_task_is_gone_for_good(world: World) -> None:
    task = young(world)
    await succeed(world, task)

    assert await delete(world, 1, task.id) == 200
    assert await delete(world, 1, task.id) == 200, "again, the same"
    assert await world.store.task(task.id, None) is None
    assert await world.store.is_gone(task.id, 1)
    assert not await world.store.is_gone(task.id, 2)
    assert await delete(world, 2, task.id) == 404
    assert await count(world, "tasks") == 0


@pytest.mark.parametrize("state,status", [("queued", 409), ("running", 409), ("delayed", 409)])
async def test_an_open_task_is_not_deleted(world: World, state: str, status: int) -> None:
    task = new_task(run_after=world.clock.now + 9 if state == "delayed" else None)
    await world.submit(task)
    if state == "running":
        await (await world.worker()).take_one()

    assert await delete(world, 1, task.id) == status

    assert await world.state(task.id) == state
    assert not await world.store.is_gone(task.id, None)


async def test_only_owner_and_admin_delete(world: World) -> None:
    first, second = new_task(), new_task()
    await succeed(world, first, second)

    assert await delete(world, 2, first.id) == 404
    assert await delete(world, 1, new_id()) == 404
    assert await delete(world, None, second.id) == 200

    assert await world.state(first.id) == "succeeded"
    assert await world.store.is_gone(second.id, 1), "its owner's, whoever deleted it"


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_deleted_id_is_not_taken_again(world: World, is_killed: bool) -> None:
    task = young(world)
    await succeed(world, task)
    await delete(world, 1, task.id)
    if is_killed:
        await world.kill()

    with pytest.raises(Gone):
        await world.submit(new_task(task.id))
    with pytest.raises(Gone):
        await world.submit(new_task(), new_task(task.id), batch=batch())
    with pytest.raises(Conflict):
        await world.submit(new_task(task.id), kind=spec(owner=2))

    assert await count(world, "tasks") == 0
    assert await count(world, "batches") == 0


async def test_a_deleted_member_is_counted_in_its_batch(world: World) -> None:
    whole = batch()
    tasks = [new_task() for _ in range(3)]
    await succeed(world, *tasks, batch=whole)

    await delete(world, 1, tasks[1].id)

    row = await world.batch(whole.id)
    assert (row.total, row.succeeded, row.purged) == (3, 3, 1)
    ends = await world.store.answers_in_order(row.batch, 0, 10)
    assert [end.position for end in ends] == [0, 2]


async def test_a_late_report_of_a_deleted_task_changes_nothing(world: World) -> None:
    task = new_task()
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.cancel(1, [task.id])
    await delete(world, 1, task.id)

    assert await worker.report(succeeded(dealt)) == [404]
    assert await count(world, "tasks") == 0


async def test_tombstones_go_when_the_ids_age_says_enough(world: World) -> None:
    old, fresh = new_task(), young(world)
    await succeed(world, old, fresh)
    for task in (old, fresh):
        await delete(world, 1, task.id)

    await leave(world)
    assert not await world.store.is_gone(old.id, 1)
    assert await world.store.is_gone(fresh.id, 1)
    world.clock.advance(DAY + 1)
    await leave(world)

    assert await count(world, "tombstones") == 0


# ---- the settings


@pytest.mark.parametrize(
    "options,shortest,longest",
    [
        ({}, 7 * DAY, 30 * DAY),
        ({"read": 60.0}, DAY, 30 * DAY),
        ({"read": 40 * DAY, "failed": 3 * DAY}, 3 * DAY, 40 * DAY),
    ],
)
def test_the_shortest_retention_is_a_day_at_least(
    options: dict[str, Any], shortest: float, longest: float
) -> None:
    keep = Keep(**options)

    assert (keep.shortest, keep.longest) == (shortest, longest)
