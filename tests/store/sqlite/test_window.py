"""Windows read back: what is read of a long queue is what was stored, to the last bit."""

import sqlite3

import pytest

from task_server.store.sqlite.memory import Memory, Queued
from task_server.store.sqlite.window import LARGE_BYTES, read_window
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import new_task

PAYLOADS = [b"", b"\0", bytes(range(256)), b'"args":[4],"kwargs":{}', b"x" * 70_000, b"a,b];"]
MOMENTS = [1_800_000_000.123456, 1_800_000_000.0, 1 / 3, -1e-300, 5e-324, 2.0**62, 1e300, 0.0]


async def read_back(world: SqliteWorld) -> tuple[list[Queued], sqlite3.Connection]:
    """The windows of what is stored, and a connection to it."""
    await world.store.close()
    connection = sqlite3.connect(world.folder / "tasks.db", isolation_level=None)
    await world.start()
    memory = Memory(connection)
    for lane in memory.lanes.values():
        read_window(connection, memory, lane)
    return [each for lane in memory.lanes.values() for each in lane.window.entries], connection


async def test_bytes_come_back_as_they_are(world: SqliteWorld) -> None:
    tasks = [new_task(payload=payload) for payload in PAYLOADS]
    await world.submit(*tasks)

    entries, connection = await read_back(world)

    connection.close()
    assert [each.id for each in entries] == [each.id for each in tasks]
    assert [each.payload for each in entries] == [
        payload if len(payload) < LARGE_BYTES else None for payload in PAYLOADS
    ]
    assert [each.size for each in entries] == [
        min(len(payload), LARGE_BYTES) for payload in PAYLOADS
    ]


@pytest.mark.parametrize("column", ["due_at", "tie", "submitted_at", "predicted", "predicted_high"])
async def test_numbers_come_back_as_they_are(world: SqliteWorld, column: str) -> None:
    await world.submit(*[new_task() for _ in MOMENTS])
    await world.store.close()
    with sqlite3.connect(world.folder / "tasks.db") as other:
        for number, moment in enumerate(MOMENTS, 1):
            other.execute(f"UPDATE tasks SET {column} = ? WHERE number = ?", (moment, number))
    other.close()

    entries, connection = await read_back(world)

    stored = connection.execute(f"SELECT number, {column} FROM tasks").fetchall()
    connection.close()
    assert {each.number: getattr(each, column) for each in entries} == dict(stored)
