"""T4, T9, T12 and T15: what time and the upkeep bring about."""

from task_server.protocol.ids import new_ids
from task_server.store.attempts import Dealt
from task_server.store.sqlite.sweep import LIMIT
from tests.store.world import World, failed, new_task, released, spec, succeeded

UNLOCKED = spec(request="numpy", environment=None)


async def test_a_task_that_is_too_late_expires(world: World) -> None:
    task = new_task(start_by=world.clock.now + 10)
    await world.submit(task)

    await world.advance(10)
    assert await world.state(task.id) == "queued"
    await world.advance(0.1)

    assert await world.state(task.id) == "expired"
    worker = await world.worker()
    assert await worker.take(5) == []
    assert [each.state.word for each in world.ended] == ["expired"]


async def test_one_that_has_started_does_not_expire(world: World) -> None:
    task = new_task(start_by=world.clock.now + 10)
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()

    await world.advance(20)

    assert await world.state(task.id) == "running"
    assert await worker.report(succeeded(dealt)) == [200]


async def test_one_given_back_too_late_expires(world: World) -> None:
    task = new_task(start_by=world.clock.now + 10)
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(20)
    await worker.report(released(dealt))

    await world.store.expire()

    assert await world.state(task.id) == "expired"


async def test_a_late_success_saves_an_expiring_task(world: World) -> None:
    task = new_task(start_by=world.clock.now + 90)
    await world.submit(task)
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(61)
    assert await worker.report(succeeded(dealt)) == [200]

    await world.advance(100)

    assert await world.state(task.id) == "succeeded"


async def test_more_than_one_sweep_takes_is_done_in_one_call(world: World) -> None:
    now = world.clock.now
    tasks = [new_task(each, run_after=now + 5) for each in new_ids(LIMIT + 10)]
    late = [new_task(each, start_by=now + 5) for each in new_ids(LIMIT + 10)]
    await world.submit(*tasks)
    await world.submit(*late)

    await world.advance(6)

    worker = await world.worker(slots=50_000)
    dealt: list[Dealt] = []
    while got := await worker.take(50_000):
        dealt += got
    assert sorted(each.id for each in dealt) == sorted(task.id for task in tasks)


async def test_a_due_task_keeps_its_counts(world: World) -> None:
    await world.submit(kind=spec(max_attempts=2))
    worker = await world.worker()
    await worker.report(failed(await worker.take_one()))
    await world.advance(100)

    await worker.report(failed(await worker.take_one()))

    assert world.ended[-1].state.word == "failed"


async def test_a_sweep_of_nothing_changes_nothing(world: World) -> None:
    (task,) = (await world.submit()).ids

    await world.store.expire()

    assert await world.state(task) == "queued"


# ---- locks


async def test_a_lock_that_failed_fails_what_waits_for_it(world: World) -> None:
    other = await world.submit()
    waiting = await world.submit(count=2, kind=UNLOCKED)
    delayed = await world.submit(new_task(run_after=world.clock.now + 9), kind=UNLOCKED)

    await world.store.lock_failed("numpy", "uv could not find 'nmpy'")

    for task in waiting.ids + delayed.ids:
        assert await world.state(task) == "failed"
        assert await world.error_kind(task) == "environment"
    assert await world.state(other.ids[0]) == "queued"


async def test_a_later_submit_has_it_locked_again(world: World) -> None:
    await world.submit(kind=UNLOCKED)
    await world.store.lock_failed("numpy", "no such package")
    before = world.new_requests

    accepted = await world.submit(kind=UNLOCKED)

    assert world.new_requests == before + 1
    assert await world.state(accepted.ids[0]) == "queued"
    await world.store.locked("numpy", environment="f" * 64, python="3.11", lock="")
    worker = await world.worker()
    assert [each.id for each in await worker.take(5)] == accepted.ids


async def test_a_retry_has_it_locked_again(world: World) -> None:
    accepted = await world.submit(kind=UNLOCKED)
    await world.store.lock_failed("numpy", "no such package")
    before = world.new_requests

    assert await world.store.retry(1, accepted.ids) == [200]

    assert world.new_requests == before + 1
    assert [text for text, *_ in await world.store.open_requests(world.clock.now)] == ["numpy"]
    await world.store.locked("numpy", environment="f" * 64, python="3.11", lock="")
    worker = await world.worker()
    assert [each.id for each in await worker.take(5)] == accepted.ids


async def test_a_lock_made_later_tells_why_and_counts_only_if_it_should(world: World) -> None:
    accepted = await world.submit(kind=UNLOCKED)

    for counts in (False, True):
        at = world.clock.now + 5
        await world.store.lock_later("numpy", at=at, reason="it is away", counts=counts)

    assert await world.store.open_requests(world.clock.now) == []
    assert await world.store.open_requests(world.clock.now + 6) == [("numpy", "3.11", 1)]
    row = await world.store.task(accepted.ids[0], 1)
    assert row is not None and row.request_error == "it is away"


async def test_what_could_not_be_locked_is_left_alone_once_nobody_waits(world: World) -> None:
    accepted = await world.submit(kind=UNLOCKED)
    await world.store.lock_later("numpy", at=world.clock.now, reason="it is away", counts=False)

    await world.store.cancel(1, accepted.ids)
    assert await world.store.open_requests(world.clock.now + 1) == []

    await world.submit(kind=UNLOCKED)
    assert [text for text, *_ in await world.store.open_requests(world.clock.now + 1)] == ["numpy"]


async def test_a_failure_told_after_the_lock_changes_nothing(world: World) -> None:
    accepted = await world.submit(kind=UNLOCKED)
    await world.store.locked("numpy", environment="f" * 64, python="3.11", lock="")

    await world.store.lock_failed("numpy", "too late")

    assert await world.state(accepted.ids[0]) == "queued"
    worker = await world.worker()
    assert len(await worker.take(5)) == 1


async def test_a_request_that_is_not_known_is_passed_over(world: World) -> None:
    await world.store.locked("pandas", environment="f" * 64, python="3.11", lock="")
    await world.store.lock_failed("pandas", "no such package")


async def test_a_failed_lock_outlives_the_server(world: World) -> None:
    await world.submit(kind=UNLOCKED)
    await world.store.lock_failed("numpy", "no such package")
    await world.kill()

    worker = await world.worker()

    assert await worker.take(5) == []


async def test_a_large_message_is_kept_whole(world: World) -> None:
    accepted = await world.submit(kind=UNLOCKED)

    await world.store.lock_failed("numpy", "x" * 5000)

    outcome = (await world.task(accepted.ids[0])).outcome
    assert outcome is not None and len(outcome) > 5000
