"""T1 and T2: tasks come in, once."""

import asyncio

import pytest

from task_server.errors import Conflict, RequestError
from task_server.protocol.ids import new_id, new_ids
from task_server.store.submissions import IdempotencyKey, Submission
from tests.store.world import GUESS, SPEC, World, batch, new_task, spec, succeeded

DAY = 86400.0


async def test_a_submitted_task_is_queued_and_told_by_its_id(world: World) -> None:
    task = new_task()

    accepted = await world.submit(task)

    assert accepted.ids == [task.id]
    assert (accepted.batch, accepted.duplicate) == (None, False)
    row = await world.task(task.id)
    assert (row.state.word, row.attempt, row.generation, row.spec) == ("queued", 0, 0, SPEC)
    assert row.submitted_at == world.clock.now


async def test_the_same_id_and_body_again_is_the_same_task(world: World) -> None:
    task = new_task()
    await world.submit(task)

    again = await world.submit(task)

    assert (again.ids, again.duplicate) == ([task.id], True)
    worker = await world.worker()
    assert len(await worker.take(5)) == 1


async def test_the_same_id_is_found_after_the_task_ended(world: World) -> None:
    task = new_task()
    await world.submit(task)
    worker = await world.worker()
    await worker.report(succeeded(await worker.take_one()))

    assert (await world.submit(task)).duplicate
    assert await world.state(task.id) == "succeeded"


@pytest.mark.parametrize("owner,digest", [(1, b"x" * 16), (2, b"d" * 16)])
async def test_an_id_with_another_body_or_owner_is_a_conflict(
    world: World, owner: int, digest: bytes
) -> None:
    task = new_task()
    await world.submit(task)

    with pytest.raises(Conflict):
        await world.submit(new_task(task.id, digest=digest), kind=spec(owner=owner))

    assert await world.state(task.id) == "queued"


async def test_a_list_is_stored_as_a_whole_or_not_at_all(world: World) -> None:
    taken, other = new_task(), new_task()
    await world.submit(taken)

    with pytest.raises(Conflict):
        await world.submit(other, new_task(taken.id, digest=b"x" * 16))

    assert await world.store.task(other.id, None) is None


async def test_members_that_are_there_already_are_kept(world: World) -> None:
    first, second = new_task(), new_task()
    await world.submit(first)

    accepted = await world.submit(first, second)

    assert (accepted.ids, accepted.duplicate) == ([first.id, second.id], False)
    worker = await world.worker()
    assert {dealt.id for dealt in await worker.take(5)} == {first.id, second.id}


async def test_one_id_twice_in_a_list_is_one_task(world: World) -> None:
    task = new_task()

    accepted = await world.submit(task, task)

    assert (accepted.ids, accepted.duplicate) == ([task.id, task.id], False)
    worker = await world.worker()
    assert len(await worker.take(5)) == 1


async def test_one_id_twice_in_a_list_with_two_bodies_is_a_conflict(world: World) -> None:
    task = new_task()

    with pytest.raises(Conflict):
        await world.submit(task, new_task(task.id, digest=b"x" * 16))

    assert await world.store.task(task.id, None) is None


async def test_equal_requests_in_one_group_make_one_task(world: World) -> None:
    task = new_task()

    accepted = await world.together(*[world.submit(task) for _ in range(20)])

    assert sorted(each.duplicate for each in accepted) == [False] + [True] * 19
    worker = await world.worker()
    assert len(await worker.take(5)) == 1


async def test_of_two_bodies_for_one_id_in_one_group_the_first_is_kept(world: World) -> None:
    task = new_task()
    requests = [world.submit(task), world.submit(new_task(task.id, digest=b"x" * 16))]

    first, second = await world.together(*requests)

    assert not isinstance(first, BaseException) and first.ids == [task.id]
    assert isinstance(second, Conflict)


async def test_a_refused_request_does_not_touch_its_neighbours(world: World) -> None:
    taken = new_task()
    await world.submit(taken)
    bad = new_task(taken.id, digest=b"x" * 16)

    outcomes = await world.together(world.submit(), world.submit(bad), world.submit())

    assert [isinstance(outcome, RequestError) for outcome in outcomes] == [False, True, False]


# ---- keys


async def test_a_key_with_the_same_request_gives_the_same_ids(world: World) -> None:
    key = IdempotencyKey("k", b"1" * 16)
    first = await world.submit(new_task(digest=None), new_task(digest=None), key=key)

    again = await world.submit(new_task(digest=None), new_task(digest=None), key=key)

    assert (again.ids, again.duplicate) == (first.ids, True)


async def test_a_key_with_another_request_is_a_conflict(world: World) -> None:
    await world.submit(key=IdempotencyKey("k", b"1" * 16))

    with pytest.raises(Conflict):
        await world.submit(key=IdempotencyKey("k", b"2" * 16))


async def test_keys_of_two_owners_are_apart(world: World) -> None:
    key = IdempotencyKey("k", b"1" * 16)
    first = await world.submit(key=key)

    second = await world.submit(key=key, kind=spec(owner=2))

    assert not second.duplicate and second.ids != first.ids


async def test_a_key_twice_in_one_group_makes_one_task(world: World) -> None:
    key = IdempotencyKey("k", b"1" * 16)

    first, second = await world.together(
        world.submit(new_task(digest=None), key=key), world.submit(new_task(digest=None), key=key)
    )

    assert first.ids == second.ids
    assert [first.duplicate, second.duplicate] == [False, True]


async def test_a_key_lives_as_long_as_its_task(world: World) -> None:
    key = IdempotencyKey("k", b"1" * 16)
    first = await world.submit(new_task(digest=None), key=key)
    world.clock.advance(20 * DAY)

    again = await world.submit(new_task(digest=None), key=key)

    assert (again.ids, again.duplicate) == (first.ids, True)


async def test_a_key_and_its_batch_come_again_together(world: World) -> None:
    key = IdempotencyKey("k", b"1" * 16)
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    first = await world.submit(new_task(digest=None), into=opened.id, key=key)

    again = await world.submit(new_task(digest=None), into=opened.id, key=key)

    assert (again.batch, again.ids) == (opened.id, first.ids)
    assert (await world.batch(opened.id)).total == 1


# ---- what a submission holds


async def test_specs_of_one_request_keep_apart(world: World) -> None:
    kinds = [spec(function="sqrt"), spec(function="floor", priority=3)]
    tasks = [new_task(spec=index % 2) for index in range(6)]

    await world.store.submit(Submission(1, kinds, [GUESS, GUESS], tasks))

    functions = [(await world.task(task.id)).spec.function for task in tasks]
    assert functions == ["sqrt", "floor"] * 3


@pytest.mark.parametrize("size", [0, 1024, 1025, 60_000])
async def test_arguments_come_out_as_they_went_in(world: World, size: int) -> None:
    payload = b"x" * size
    early, late = new_task(payload=payload), new_task(payload=payload)
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(1, wait=5, is_lost=True))
    await asyncio.sleep(0)
    await world.submit(early)
    (first,) = await parked
    await world.submit(late)

    dealt = await worker.take(2, is_lost=True)

    assert first.payload == payload
    assert [each.payload for each in dealt] == [payload, payload]
    await world.kill()
    again = await worker.take(0)
    assert [each.payload for each in again] == [payload, payload]


async def test_ten_thousand_tasks_are_one_request(world: World) -> None:
    tasks = [new_task(identifier) for identifier in new_ids(10_000)]

    accepted = await world.submit(*tasks)

    assert accepted.ids == [task.id for task in tasks]


async def test_an_unlocked_environment_is_reported_and_holds_its_tasks(world: World) -> None:
    await world.submit(kind=spec(request="numpy", environment=None))

    worker = await world.worker()

    assert world.new_requests == 1
    assert await worker.take(5) == []


async def test_a_task_not_before_its_time(world: World) -> None:
    task = new_task(run_after=world.clock.now + 30)
    await world.submit(task)
    worker = await world.worker()

    assert await world.state(task.id) == "delayed"
    assert await worker.take() == []
    await world.advance(29)
    assert await worker.take() == []
    await world.advance(1)
    assert (await worker.take_one()).id == task.id


async def test_a_time_that_is_past_delays_nothing(world: World) -> None:
    task = new_task(run_after=world.clock.now - 1)

    await world.submit(task)

    assert await world.state(task.id) == "queued"


async def test_an_unknown_batch_takes_no_tasks(world: World) -> None:
    with pytest.raises(RequestError):
        await world.submit(into=new_id())
