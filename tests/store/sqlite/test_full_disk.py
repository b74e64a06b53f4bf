"""A database on a disk that is full: new work is refused, what ends gets the room that there is."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from task_server.errors import StorageFull, Unavailable
from tests.small_disk import MIB, SmallDisk, small_disk
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import batch, drain, new_task, succeeded

LARGE = b'"' + b"x" * 60_000 + b'"'


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "disk", mebibytes=16) as disk:
        (disk.folder / "reserve").write_bytes(b"x" * 4 * MIB)
        yield disk


@pytest.fixture
async def full(disk: SmallDisk) -> AsyncIterator[SqliteWorld]:
    """A world on that disk, whose store gives the reserve away when it finds the disk full."""
    folder = disk.folder / "database"
    folder.mkdir()
    world = SqliteWorld(folder)
    await world.start()

    def make_room() -> bool:
        (disk.folder / "reserve").unlink(missing_ok=True)
        return disk.free_bytes > 0

    world.store.on_full = make_room
    yield world
    disk.clear()
    await world.recount()
    await world.close()


async def test_of_one_group_the_new_tasks_are_refused_and_the_answers_are_kept(
    full: SqliteWorld, disk: SmallDisk
) -> None:
    worker = await full.worker()
    await full.submit(count=10)
    dealt = await worker.take(10)
    disk.fill()
    large = [new_task(payload=LARGE) for _ in range(3)]

    refused, result, opened, cancelled = await full.together(
        full.submit(*large),
        worker.exchange(*[succeeded(each, LARGE) for each in dealt]),
        full.store.open_batch(1, batch(is_open=True)),
        full.store.cancel(1, [dealt[0].id]),
    )

    assert isinstance(refused, StorageFull) and isinstance(opened, StorageFull)
    assert [decided.status for decided in result.decisions] == [200] * 10
    assert cancelled == [409], "it had its answer before"
    assert await full.store.task(large[0].id, None) is None
    assert (await full.task(dealt[9].id)).outcome == LARGE


async def test_without_any_room_what_ends_may_try_again(full: SqliteWorld, disk: SmallDisk) -> None:
    worker = await full.worker()
    await full.submit()
    dealt = await worker.take_one()
    (disk.folder / "reserve").unlink()
    disk.fill()

    refused, late = await full.together(
        full.submit(*[new_task(payload=LARGE) for _ in range(3)]),
        worker.exchange(succeeded(dealt, LARGE)),
    )
    again = [await caught(full.submit(new_task(payload=LARGE))) for _ in range(3)]

    assert isinstance(refused, StorageFull) and isinstance(late, Unavailable)
    assert {type(each) for each in again} == {StorageFull}
    assert await full.state(dealt.id) == "running", "it can be read all the same"
    disk.clear()
    assert await worker.report(succeeded(dealt, LARGE)) == [200]
    await full.submit()


async def caught(call: object) -> object:
    try:
        return await call  # type: ignore[misc]  # of a coroutine
    except StorageFull as error:
        return error


async def test_those_who_are_parked_ask_again(full: SqliteWorld, disk: SmallDisk) -> None:
    worker = await full.worker()
    parked = asyncio.create_task(worker.exchange(wait=20))
    await asyncio.sleep(0.05)
    disk.fill()

    with pytest.raises(StorageFull):
        await full.submit(*[new_task(payload=LARGE) for _ in range(3)])

    with pytest.raises(Unavailable):
        await parked


async def test_a_store_opens_on_a_full_disk(full: SqliteWorld, disk: SmallDisk) -> None:
    accepted = await full.submit(count=5)
    disk.fill()

    await full.restart()

    assert {await full.state(task) for task in accepted.ids} == {"queued"}
    disk.clear()
    assert await drain(await full.worker()) == accepted.ids
