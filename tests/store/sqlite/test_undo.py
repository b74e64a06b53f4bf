"""Groups that fail: nothing of them is left, in the tables, in memory or with the callers."""

import asyncio
import logging
import sqlite3
from collections.abc import Iterator

import pytest

from task_server.errors import Unavailable
from task_server.protocol.ids import new_ids
from task_server.store.records.sql import Rows
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.lease import write_queued
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import new_task, spec, succeeded

LAST_STEP = "task_server.store.sqlite.groups.write_queued"


class Planted(RuntimeError):
    """A fault that a test planted."""


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def fail_once(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Have the next group fail after all its operations, before its commit."""

    def fault(group: Group) -> None:
        write_queued(group)
        monkeypatch.setattr(LAST_STEP, write_queued)
        raise error

    monkeypatch.setattr(LAST_STEP, fault)


def full_disk() -> sqlite3.OperationalError:
    return sqlite3.OperationalError("database or disk is full")


async def test_callers_of_a_failed_group_are_told_to_try_again(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = new_task()
    fail_once(monkeypatch, full_disk())

    with pytest.raises(Unavailable):
        await world.submit(task)

    assert await world.store.task(task.id, None) is None
    await world.recount()
    assert not (await world.submit(task)).duplicate


async def test_nothing_is_published_before_its_commit(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    first, second = await worker.take(2)
    await worker.report(succeeded(first))
    fail_once(monkeypatch, full_disk())

    with pytest.raises(Unavailable):
        await worker.exchange(succeeded(second))

    assert [each.id for each in world.ended] == [first.id]
    known = world.store.statistics((0, "", "math:sqrt"))
    assert known is not None and known.calls == 1
    await world.recount()
    assert await worker.report(succeeded(second)) == [200]
    assert [each.n for each in world.ended] == [1, 2]


async def test_parked_workers_ask_again_after_a_failed_group(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=20))
    await asyncio.sleep(0.01)
    fail_once(monkeypatch, full_disk())

    with pytest.raises(Unavailable):
        await world.submit()
    with pytest.raises(Unavailable):
        await parked

    accepted = await world.submit()
    assert [each.id for each in await worker.take(5)] == accepted.ids


async def test_leases_of_a_failed_group_were_never_given(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = (await world.submit()).ids
    worker = await world.worker()
    fail_once(monkeypatch, full_disk())

    with pytest.raises(Unavailable):
        await worker.take(1)

    await world.recount()
    assert (await world.task(task)).attempt == 0
    dealt = await worker.take_one()
    assert dealt.attempt == 1


async def test_a_poisoned_operation_fails_alone(world: SqliteWorld) -> None:
    good = [new_task() for _ in range(5)]
    worker = await world.worker()

    async def poison(rows: Rows) -> None:
        await rows.execute("UPDATE tasks SET state = 99")
        raise Planted

    outcomes = await world.together(
        *[world.submit(task) for task in good[:3]],
        world.store.write(poison),
        *[world.submit(task) for task in good[3:]],
        worker.exchange(want=1),
    )

    assert [isinstance(each, Unavailable) for each in outcomes] == [False] * 3 + [True] + [
        False
    ] * 3
    rows = [await world.state(task.id) for task in good]
    assert sorted(rows) == ["queued"] * 4 + ["running"]


async def test_a_refusal_after_writing_keeps_nothing_of_it(world: SqliteWorld) -> None:
    (task,) = (await world.submit()).ids

    async def refuse(rows: Rows) -> None:
        await rows.execute("UPDATE tasks SET submitted_at = 0")
        raise Unavailable("not now")

    refused, accepted = await world.together(world.store.write(refuse), world.submit())

    assert isinstance(refused, Unavailable)
    assert not isinstance(accepted, BaseException)
    assert (await world.task(task)).submitted_at == world.clock.now


async def test_a_memory_out_of_step_with_the_tables_mends_itself(world: SqliteWorld) -> None:
    first, second = (await world.submit(count=2)).ids
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.write(
        lambda rows: rows.execute("UPDATE tasks SET secret = zeroblob(16) WHERE id = ?", dealt.id)
    )

    with pytest.raises(Unavailable):
        await worker.exchange(succeeded(dealt))

    assert await worker.report(succeeded(dealt)) == [409]
    assert {first, second} >= {dealt.id}
    await world.recount()


async def test_a_queued_task_out_of_step_mends_itself_too(world: SqliteWorld) -> None:
    (task,) = (await world.submit()).ids
    worker = await world.worker()
    await world.store.write(
        lambda rows: rows.execute("UPDATE tasks SET attempt = 7 WHERE id = ?", task)
    )

    with pytest.raises(Unavailable):
        await worker.take(1)

    assert (await worker.take_one()).attempt == 8


async def test_a_failed_group_leaves_all_windows_right(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [new_task(each) for each in new_ids(3000)]
    await world.submit(*tasks[:1500])
    worker = await world.worker(slots=5000)
    await worker.take(700)
    fail_once(monkeypatch, full_disk())
    with pytest.raises(Unavailable):
        await asyncio.gather(worker.take(700), world.submit(*tasks[1500:]))
    await world.submit(*tasks[1500:])

    await world.recount()
    order: list[bytes] = []
    while got := await worker.take(5000):
        order += [each.id for each in got]

    assert order == [task.id for task in tasks[700:]]


# ---- the database itself


def broken_disk() -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
    return error


async def test_after_a_failed_sync_nothing_is_written_any_more(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[bool] = []
    world.store._on_broken = lambda: told.append(True)
    worker = await world.worker()
    parked = asyncio.create_task(worker.exchange(wait=20))
    await asyncio.sleep(0.01)
    fail_once(monkeypatch, broken_disk())

    outcomes = await asyncio.gather(world.submit(), world.submit(), parked, return_exceptions=True)
    with pytest.raises(Unavailable):
        await world.submit()

    assert all(isinstance(each, Unavailable) for each in outcomes)
    assert told == [True]
    await world.restart()
    await world.submit()


async def test_operations_that_wait_when_it_breaks_are_told(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, broken_disk())
    big = world.submit(*[new_task(each) for each in new_ids(12_000)])

    outcomes = await asyncio.gather(
        big, *[world.submit() for _ in range(20)], return_exceptions=True
    )

    assert all(isinstance(each, Unavailable) for each in outcomes)
    await world.restart()


async def test_a_store_that_cannot_be_read_again_is_broken(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_once(monkeypatch, full_disk())

    def unreadable() -> None:
        raise full_disk()

    monkeypatch.setattr(world.store, "_load", unreadable)

    with pytest.raises(Unavailable):
        await world.submit()
    with pytest.raises(Unavailable):
        await world.submit()

    await world.restart()


async def test_after_a_close_every_call_is_refused(world: SqliteWorld) -> None:
    await world.store.close()

    with pytest.raises(Unavailable):
        await world.submit()

    await world.start()


async def test_a_waiting_server_that_raises_does_not_hold_up_answers(world: SqliteWorld) -> None:
    worker = await world.worker()
    await world.submit(kind=spec())
    dealt = await worker.take_one()
    caught: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: caught.append(told))

    def raises(_: object) -> None:
        raise Planted

    world.store.on_ended = raises

    assert await worker.report(succeeded(dealt)) == [200]
    assert len(caught) == 1
