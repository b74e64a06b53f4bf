"""The write-ahead log stays short while others read; only a read that never ends makes it long."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.store.records.sql import Rows
from task_server.store.sqlite import connection, log_bound
from task_server.store.sqlite.connection import open_reader
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import new_task

MIB = 2**20
SLOW_READ = (
    "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 20000)"
    " SELECT count(*), (SELECT count(*) FROM tasks) FROM n"
)


@pytest.fixture(autouse=True)
def short_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LOG_BYTES", MIB)
    monkeypatch.setattr(log_bound, "LOG_BYTES", MIB)
    monkeypatch.setattr(log_bound, "LONG_BYTES", 4 * MIB)
    monkeypatch.setattr(log_bound, "PAUSE_SECONDS", 0.0)


def log_size(world: SqliteWorld) -> int:
    return (world.folder / "tasks.db-wal").stat().st_size


async def write_mebibyte(world: SqliteWorld) -> None:
    """Write a little more than that, in one transaction."""
    await world.submit(*[new_task(payload=b"x" * 60_000) for _ in range(18)])


async def test_the_log_stays_short_under_reads_that_never_pause(world: SqliteWorld) -> None:
    is_over = threading.Event()

    async def read(rows: Rows) -> None:
        await rows.fetch(SLOW_READ)

    async def keep_reading() -> None:
        while not is_over.is_set():
            await world.store.read(read)

    reading = [asyncio.create_task(keep_reading()) for _ in range(4)]
    longest = 0
    for _ in range(40):
        await write_mebibyte(world)
        longest = max(longest, log_size(world))
    is_over.set()
    await asyncio.gather(*reading)

    assert longest < 8 * MIB, "40 MiB were written"


@pytest.fixture
def long_read(world: SqliteWorld) -> Iterator[threading.Event]:
    """Another program that reads until the event is set."""
    is_over, has_begun = threading.Event(), threading.Event()

    def read(path: Path) -> None:
        reader = open_reader(path)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM tasks").fetchone()
        has_begun.set()
        is_over.wait(20)
        reader.close()

    thread = threading.Thread(target=read, args=(world.store.path,))
    thread.start()
    assert has_begun.wait(10)
    yield is_over
    is_over.set()
    thread.join()


async def test_beside_a_long_read_writes_go_on_and_the_log_is_cut_back_after_it(
    world: SqliteWorld, long_read: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            await write_mebibyte(world)
    long = log_size(world)
    told = [record.message for record in caplog.records if "MiB" in record.message]

    long_read.set()
    while (size := log_size(world)) > 2 * MIB:
        await write_mebibyte(world)

    assert long > 9 * MIB and size <= 2 * MIB
    assert len(told) == 1 and "tasks.db-wal has" in told[0]


async def test_a_log_that_is_short_is_left_alone(world: SqliteWorld) -> None:
    await world.submit(count=100)

    assert log_size(world) < MIB
    await world.store.close()
    assert not (world.folder / "tasks.db-wal").exists()
    await world.start()
