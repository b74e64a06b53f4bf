"""What batches were said to cost, and what they took."""

from __future__ import annotations

import pytest

from task_server.protocol.ids import new_ids
from task_server.store.attempts import Used
from task_server.store.records import totals
from task_server.store.records.totals import GUESSED, JudgedTotal, ToldTotal
from tests.store.world import World, batch, failed, new_task, succeeded


def said(world: World, identifier: bytes | None, *, p50: float = 2.0) -> ToldTotal:
    known = world.store.statistics((0, "", "math:sqrt"))
    assert known is not None and identifier is not None
    return ToldTotal(known.function, identifier, p50 / 2, p50, p50 * 2)


async def ran(world: World, *seconds: float, p50: float = 2.0) -> ToldTotal:
    """A batch that was said to take `p50`, and whose tasks took so long."""
    accepted = await world.submit(
        *[new_task(each) for each in new_ids(len(seconds))], batch=batch()
    )
    told = said(world, accepted.batch, p50=p50)
    await world.store.note_totals([told])
    worker = await world.worker()
    for dealt, each in zip(await worker.take(len(seconds)), seconds, strict=True):
        await worker.report(succeeded(dealt, used=Used(run_seconds=each)))
    return told


async def judged(world: World, function: int) -> list[JudgedTotal]:
    """All that is done is added up."""
    store = world.store
    for total in await store.done_totals(limit=100):
        pieces = range(0, total.total, totals.TASKS_A_READ)
        seconds = sum([await store.run_seconds_of(total.batch, start=each) for each in pieces])
        await store.judge_total(total, seconds if total.is_whole else None)
    assert await store.done_totals(limit=100) == []
    return await store.judged_totals(function)


async def test_a_batch_is_judged_once_it_is_done(world: World) -> None:
    told = await ran(world, 1.0, 2.0, 4.0)
    waiting = await world.submit(batch=batch())
    await world.store.note_totals([said(world, waiting.batch)])

    assert await judged(world, told.function) == [JudgedTotal(1.0, 2.0, 4.0, 7.0)]


async def test_long_batches_are_added_up_in_pieces(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "TASKS_A_READ", 2)
    told = await ran(world, 1.0, 2.0, 4.0, 8.0, 16.0)

    (found,) = await judged(world, told.function)

    assert found.seconds == 31.0


async def test_the_parts_of_a_batch_add_up(world: World) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    worker = await world.worker()
    for p50 in (2.0, 3.0):
        await world.submit(into=opened.id)
        await world.store.note_totals([said(world, opened.id, p50=p50)])
        await worker.report(succeeded(await worker.take_one(), used=Used(run_seconds=1.0)))
    open_ones = await world.store.done_totals(limit=100)
    await world.store.close_batch(1, opened.id)

    found = await judged(world, said(world, opened.id).function)

    assert open_ones == []
    assert found == [JudgedTotal(2.5, 5.0, 10.0, 2.0)]


async def test_what_holds_a_guess_is_not_judged(world: World) -> None:
    told = await ran(world, 1.0, p50=GUESSED)

    assert await judged(world, told.function) == []


async def test_a_batch_with_a_failure_is_not_judged(world: World) -> None:
    accepted = await world.submit(count=2, batch=batch())
    told = said(world, accepted.batch)
    await world.store.note_totals([told])
    worker = await world.worker()
    first, second = await worker.take(2)
    await worker.report(succeeded(first), failed(second))

    assert await judged(world, told.function) == []


async def test_only_the_newest_batches_are_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(totals, "KEPT", 2)
    for seconds in (1.0, 2.0, 3.0):
        told = await ran(world, seconds)

    found = await judged(world, told.function)

    assert [each.seconds for each in found] == [3.0, 2.0]
