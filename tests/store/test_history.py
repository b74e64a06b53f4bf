"""T13 keeps what came before: the outcomes of earlier generations, and counts that stay right."""

import msgspec
import pytest

from task_server.protocol.ids import new_id
from task_server.protocol.tasks import Error
from task_server.store.records.history import GENERATIONS
from task_server.store.states import Encoding
from tests.store.retained import KEEP, count, purge
from tests.store.world import World, batch, failed, new_task, succeeded


def error(message: str) -> bytes:
    return msgspec.json.encode(Error(kind="exception", type="ValueError", message=message))


async def fail(world: World, message: str) -> None:
    worker = await world.worker()
    await worker.report(failed(await worker.take_one(), error=error(message)))


@pytest.mark.parametrize("size", [10, 5000])
async def test_a_retry_keeps_the_old_outcome(world: World, size: int) -> None:
    task = new_task()
    await world.submit(task)
    world.clock.advance(5)
    await fail(world, "x" * size)
    ended_at = world.clock.now
    world.clock.advance(5)

    await world.store.retry(1, [task.id])

    number = (await world.task(task.id)).number
    (past,) = await world.store.past_outcomes(number)
    assert (past.generation, past.attempt, past.state.word) == (0, 1, "failed")
    assert (past.encoding, past.outcome) == (Encoding.ERROR, error("x" * size))
    assert (past.started_at, past.ended_at) == (ended_at, ended_at)


async def test_each_generation_has_its_own(world: World) -> None:
    task = new_task()
    await world.submit(task)
    number = (await world.task(task.id)).number
    await fail(world, "first")
    await world.store.retry(1, [task.id])
    await world.store.cancel(1, [task.id])
    await world.store.retry(1, [task.id])
    await fail(world, "third")
    await world.store.retry(1, [task.id])
    await world.kill()

    past = await world.store.past_outcomes(number)

    told = [(each.generation, each.attempt, each.state.word) for each in past]
    assert told == [(0, 1, "failed"), (1, 1, "cancelled"), (2, 2, "failed")]
    assert [each.outcome for each in past] == [error("first"), None, error("third")]
    row = await world.task(task.id)
    assert (row.generation, row.state.word, row.outcome) == (3, "queued", None)


async def test_a_task_that_was_not_retried_has_none(world: World) -> None:
    task = new_task()
    await world.submit(task)
    await fail(world, "only")

    assert await world.store.past_outcomes((await world.task(task.id)).number) == []


async def test_only_the_newest_of_very_many_are_kept(world: World) -> None:
    task = new_task()
    await world.submit(task)
    number = (await world.task(task.id)).number
    for _ in range(GENERATIONS + 5):
        await world.store.cancel(1, [task.id])
        assert await world.store.retry(1, [task.id]) == [200]

    past = await world.store.past_outcomes(number)

    assert [each.generation for each in past] == list(range(5, GENERATIONS + 5))


async def test_batch_and_places_are_right_however_often_it_is_retried(world: World) -> None:
    whole = batch()
    task, other = new_task(), new_task()
    await world.submit(task, other, batch=whole)
    for _ in range(5):
        await world.store.cancel(1, [task.id])
        row = await world.batch(whole.id)
        assert (row.cancelled, row.queued) == (1, 1)
        await world.store.retry(1, [task.id])
        row = await world.batch(whole.id)
        assert (row.cancelled, row.queued) == (0, 2)
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(2)))

    row = await world.batch(whole.id)
    assert (row.succeeded, row.cancelled, row.total) == (2, 0, 2)
    places = [each.n for each in world.ended]
    assert places == sorted(set(places))


@pytest.mark.parametrize("is_young", [False, True])
async def test_purging_takes_the_history_too(world: World, is_young: bool) -> None:
    task = new_task(new_id(at=world.clock.now) if is_young else None)
    await world.submit(task)
    await world.store.cancel(1, [task.id])
    await world.store.retry(1, [task.id])
    await world.store.cancel(1, [task.id])
    assert await count(world, "past_outcomes") == 1
    world.clock.advance(KEEP.failed)

    assert await purge(world) == 1

    assert await count(world, "past_outcomes") == 0
