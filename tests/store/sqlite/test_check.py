"""`db check`: what a server alone has written is whole; everything else shows."""

import sqlite3
from pathlib import Path

import pytest

from task_server.errors import DatabaseUnusable
from task_server.protocol.ids import new_ids, to_text
from task_server.store.blobs import name_of
from task_server.store.blobs.directory import DirectoryBlobs
from task_server.store.records.checks import Finding
from task_server.store.sqlite.check import check
from task_server.store.sqlite.connection import open_writer
from task_server.store.sqlite.migrate import newest_version
from task_server.store.states import Encoding
from tests.store.sqlite.world import SqliteWorld
from tests.store.test_packages import package
from tests.store.world import SPEC, batch, crashed, failed, new_task, spec, succeeded


@pytest.fixture
async def path(world: SqliteWorld) -> Path:
    """A database with tasks in every state, after its server stopped."""
    made = await world.submit(count=8, batch=batch())
    await world.store.write(
        lambda rows: rows.execute(
            "INSERT INTO environments VALUES (?, '3.11', '', 0)", SPEC.environment
        )
    )
    worker = await world.worker()
    dealt = await worker.take(4)
    await worker.report(
        succeeded(dealt[0], log=b"printed"),
        succeeded(dealt[1], b'"' + b"x" * 5000 + b'"'),
        failed(dealt[2]),
        crashed(dealt[3]),
    )
    (running,) = await worker.take(1)
    assert await world.store.cancel(1, [made.ids[-1]]) == [200]
    await world.submit(new_task(start_by=world.clock.now + 1), kind=spec(python="3.1"))
    await world.plain_lease()
    await world.submit(new_task(run_after=world.clock.now + 100))
    await world.submit(new_task(payload=b'"args":["' + b"y" * 5000 + b'"],"kwargs":{}'))
    await world.advance(2)
    assert await world.state(running.id) == "running"
    path = world.folder / "tasks.db"
    await world.store.close()
    return path


def tamper(path: Path, sql: str) -> None:
    connection = open_writer(path)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    changed = connection.execute(sql).rowcount
    connection.close()
    assert changed != 0, "the test changes nothing"


def found(path: Path) -> set[str]:
    return {each.what for each in check(path)}


async def test_a_database_written_by_its_server_is_whole(path: Path, world: SqliteWorld) -> None:
    assert check(path, path.parent / "blobs") == []

    await world.start()


FAULTS = {
    "a task has a state that does not exist": "UPDATE tasks SET state = 9 WHERE state = 3",
    "a task names a kind, a lane or a batch that is not there": "DELETE FROM batches",
    "a task waits in another lane than its kind's": "UPDATE tasks SET lane = 7 WHERE state = 0",
    "a task runs without a session or a lease": "UPDATE tasks SET secret = NULL WHERE state = 2",
    "a task waits with a lease": "UPDATE tasks SET secret = x'00' WHERE state = 0",
    "a delayed task waits for nothing, or another task waits": (
        "UPDATE task_extras SET delayed_until = NULL"
    ),
    "a plain worker's lease has no end, or something else has one": (
        "UPDATE task_extras SET leased_until = NULL"
    ),
    "a task has ended without a place or a time, or has one without an end": (
        "UPDATE tasks SET n = NULL WHERE state = 4"
    ),
    "two tasks have one place among the finished": "UPDATE tasks SET n = 1 WHERE n IS NOT NULL",
    "a task succeeded or failed without an outcome, or has one without that": (
        "DELETE FROM payloads WHERE part = 1"
    ),
    "a task waits or runs without its arguments": "DELETE FROM payloads WHERE part = 0",
    "two tasks have one position in a batch": "UPDATE tasks SET position = 0 WHERE position = 1",
    "a batch's counts are not those of its tasks": "UPDATE batches SET succeeded = succeeded - 1",
    "the count of what waits is not that of the tasks": "UPDATE kind_load SET queued = queued + 1",
    "a function has fewer calls than tasks that succeeded": (
        "UPDATE function_statistics SET calls = 1"
    ),
    "arguments or an outcome without a task": "INSERT INTO payloads VALUES (99, 0, x'00')",
    "a log without a task": "UPDATE logs SET number = 99",
    "times or counts without a task": "INSERT INTO task_extras (number) VALUES (99)",
    "an attempt without a task": "UPDATE past_attempts SET task = 99",
    "a row names another that is not there": "DELETE FROM functions",
}


@pytest.mark.parametrize(("what", "sql"), FAULTS.items())
async def test_each_fault_is_found(path: Path, world: SqliteWorld, what: str, sql: str) -> None:
    keep = path.read_bytes()
    tamper(path, sql)

    findings = {each.what: each for each in check(path)}

    assert what in findings
    assert findings[what].count >= 1 and findings[what].example
    path.write_bytes(keep)
    await world.start()


async def test_a_finding_names_a_task_by_its_id(path: Path, world: SqliteWorld) -> None:
    (identifier,) = _rows(path, "SELECT id FROM tasks WHERE state = 4")
    tamper(path, "UPDATE tasks SET n = NULL WHERE state = 4")

    (finding,) = check(path)

    assert finding == Finding(finding.what, 1, to_text(identifier[0]))
    tamper(path, "UPDATE tasks SET n = 99 WHERE state = 4")
    await world.start()


def _rows(path: Path, sql: str) -> list[tuple[bytes]]:
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


async def test_damaged_pages_are_found_and_the_rest_is_checked_all_the_same(
    world: SqliteWorld,
) -> None:
    await world.submit(*[new_task(each) for each in new_ids(3000)])
    await world.store.close()
    path = world.folder / "tasks.db"
    keep = path.read_bytes()
    (page,) = _rows(path, "SELECT rootpage FROM sqlite_master WHERE name = 'tasks_ready'")
    damaged = bytearray(keep)
    damaged[(int(page[0]) - 1) * 4096 : int(page[0]) * 4096] = b"\xff" * 4096
    path.write_bytes(damaged)
    tamper(path, "UPDATE kind_load SET queued = 1")

    findings = found(path)

    assert "the file is damaged" in findings
    assert "the count of what waits is not that of the tasks" in findings
    path.write_bytes(keep)
    await world.start()


async def test_the_server_goes_on_while_its_database_is_checked(world: SqliteWorld) -> None:
    await world.submit(count=3)

    assert "the count of what waits is not that of the tasks" not in found(world.store.path)

    await world.submit()


async def test_a_check_changes_nothing(path: Path, world: SqliteWorld) -> None:
    before = {each.name: each.read_bytes() for each in path.parent.glob("tasks.db*")}

    check(path)

    after = {each.name: each.read_bytes() for each in path.parent.glob("tasks.db*")}
    assert after["tasks.db"] == before["tasks.db"] and not after.get("tasks.db-wal")
    await world.start()


async def test_what_is_no_database_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"this is no database" * 1000)

    for name in ("text", "nothing", "."):
        with pytest.raises(DatabaseUnusable, match=r"database"):
            check(tmp_path / name)


async def test_an_older_database_is_to_be_upgraded_first(path: Path, world: SqliteWorld) -> None:
    tamper(path, f"PRAGMA user_version = {newest_version()}")
    keep = path.read_bytes()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 0")
    connection.close()

    with pytest.raises(DatabaseUnusable, match="db upgrade"):
        check(path)

    path.write_bytes(keep)
    await world.start()


# ---- blobs


async def test_the_content_of_uploaded_wheels_is_looked_for(world: SqliteWorld) -> None:
    wheel = package(world)
    await world.store.add_package(wheel, began=world.clock.now)
    path = world.store.path

    told = [each for each in check(path, path.parent / "blobs") if "blob" in each.what]

    assert [(each.count, each.example) for each in told] == [(1, wheel.digest)]


async def test_blobs_that_tasks_need_are_looked_for(world: SqliteWorld) -> None:
    blobs = DirectoryBlobs(world.folder / "blobs", maximum_bytes=1000)
    for data in (b"arguments", b"function", b"answer", b"of nobody"):
        name = await blobs.put_bytes(data)
        await world.store.keep_blob(name, 1, size=len(data), now=world.clock.now)
    payload = b'"call":{"encoding":"pickle","blob":"%s"}' % name_of(b"arguments").encode()
    await world.submit(new_task(payload=payload))
    await world.submit(kind=spec(pickle=name_of(b"function")))
    worker = await world.worker()
    await world.submit(kind=spec(priority=5))
    dealt = await worker.take_one()
    report = succeeded(dealt, name_of(b"answer").encode())
    report.encoding = Encoding.PICKLE_BLOB
    await worker.report(report)
    path = world.store.path

    missing = []
    for data in (b"arguments", b"function", b"answer", b"of nobody"):
        await blobs.delete(name_of(data))
        told = [each for each in check(path, path.parent / "blobs") if "blob" in each.what]
        missing += [each.count for each in told]

    assert missing == [1, 2, 3, 3]
