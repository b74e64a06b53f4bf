"""Windows read back: what is read of a long queue is what was stored, to the last bit."""

import shutil
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
    return read_all(connection), connection


def read_all(connection: sqlite3.Connection) -> list[Queued]:
    """What waits, in the order of its lanes."""
    memory = Memory(connection)
    for lane in memory.lanes.values():
        read_window(connection, memory, lane)
    return [each for lane in memory.lanes.values() for each in lane.window.entries]


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

    assert [(each.number, getattr(each, column)) for each in entries] == connection.execute(
        f"SELECT number, {column} FROM tasks ORDER BY due_at, tie, number"
    ).fetchall()
    connection.close()


async def test_what_tasks_do_not_share_with_the_first_is_their_own(world: SqliteWorld) -> None:
    await world.submit(*[new_task() for _ in range(6)])
    copy = world.folder / "copy.db"
    await world.store.close()
    shutil.copy(world.folder / "tasks.db", copy)
    await world.start()
    connection = sqlite3.connect(copy, isolation_level=None)
    connection.execute("UPDATE tasks SET batch = 5, position = number WHERE number IN (2, 3, 5)")
    connection.execute("UPDATE tasks SET attempt = 7 WHERE number = 4")
    connection.execute("INSERT INTO task_extras (number, crashes) VALUES (1, 2), (5, 1), (6, 0)")

    entries = read_all(connection)

    connection.close()
    assert [
        (each.number, each.batch, each.position, each.attempt, each.crashes) for each in entries
    ] == [
        (1, None, None, 0, 2),
        (2, 5, 2, 0, 0),
        (3, 5, 3, 0, 0),
        (4, None, None, 7, 0),
        (5, 5, 5, 0, 1),
        (6, None, None, 0, 0),
    ]


async def test_the_end_of_a_long_batch_is_read_as_fast_as_its_beginning(world: SqliteWorld) -> None:
    await world.submit(*[new_task() for _ in range(2000)])  # they have one key but for the number
    await world.store.close()
    connection = sqlite3.connect(world.folder / "tasks.db", isolation_level=None)
    memory = Memory(connection)
    (lane,) = memory.lanes.values()
    steps: list[int] = []
    connection.set_progress_handler(lambda: steps.append(1), 100)
    taken: list[int] = []

    for _ in range(20):
        read_window(connection, memory, lane, wanted=100)
        taken.append(len(steps))
        steps.clear()

    connection.close()
    assert len(lane.window.entries) == 2000
    assert max(taken) < 1.2 * min(taken)
