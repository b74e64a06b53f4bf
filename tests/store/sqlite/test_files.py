"""The database file: who has it, and what it is refused for."""

import shutil
import sqlite3
from importlib import resources
from pathlib import Path

import pytest

from task_server.protocol.ids import new_ids
from task_server.store.sqlite import connection as connections
from task_server.store.sqlite.connection import DatabaseUnusable
from task_server.store.sqlite.store import SqliteStore
from tests.store.world import World, new_task


async def test_a_second_store_on_the_file_is_refused(world: World) -> None:
    with pytest.raises(DatabaseUnusable, match="another server"):
        SqliteStore(world.folder / "tasks.db", clock=world.clock)

    await world.submit()


async def test_after_a_close_the_file_is_free(world: World) -> None:
    await world.store.close()
    await world.store.close()

    world.store = world._open()


async def test_a_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database" * 1000)

    for _ in range(2):
        with pytest.raises(DatabaseUnusable, match=r"x\.db"):
            SqliteStore(path, clock=lambda: 0.0)

    assert path.read_bytes() == b"this is no database" * 1000


async def test_a_damaged_database_is_refused(world: World) -> None:
    await world.submit(*[new_task(each) for each in new_ids(2000)])
    await world.store.close()
    damaged = world.folder.parent / "damaged.db"
    content = bytearray((world.folder / "tasks.db").read_bytes())
    content[8192:] = b"\xff" * len(content[8192:])
    damaged.write_bytes(content)
    world.store = world._open()

    with pytest.raises(DatabaseUnusable):
        SqliteStore(damaged, clock=world.clock)


async def test_a_database_of_a_newer_version_is_refused(world: World) -> None:
    await world.store.close()
    path = world.folder / "tasks.db"
    connection = sqlite3.connect(path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("PRAGMA user_version = 9999")

    with pytest.raises(DatabaseUnusable, match="newer version"):
        SqliteStore(path, clock=world.clock)

    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    world.store = world._open()


async def test_a_migration_killed_half_way_begins_anew(tmp_path: Path) -> None:
    script = resources.files("task_server.store.sqlite") / "migrations" / "0001_first.sql"
    half = script.read_text().split("CREATE TABLE sessions")[0]
    (tmp_path / "a").mkdir()
    dying = sqlite3.connect(tmp_path / "a" / "t.db", isolation_level=None)
    dying.execute("PRAGMA journal_mode = WAL")
    dying.executescript(f"BEGIN IMMEDIATE;\n{half}")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    dying.close()

    store = SqliteStore(tmp_path / "b" / "t.db", clock=lambda: 0.0)

    assert await store.open_requests(0.0) == []
    await store.close()


async def test_a_migration_that_fails_leaves_the_version_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = (await world.submit()).ids
    await world.store.close()
    known = connections._migrations()
    broken = (known[-1][0] + 1, "CREATE TABLE later (x);\nCREATE TABLE tasks (x);")
    monkeypatch.setattr(connections, "_migrations", lambda: [*known, broken])
    with pytest.raises(DatabaseUnusable):
        world._open()
    monkeypatch.undo()

    world.store = world._open()

    assert await world.state(task) == "queued"


async def test_the_file_is_its_owners_alone(world: World) -> None:
    assert (world.folder / "tasks.db").stat().st_mode & 0o077 == 0


async def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "t.db").touch()
    store = SqliteStore(tmp_path / "t.db", clock=lambda: 0.0)

    ((vacuum,),) = await store.read(lambda rows: rows.fetch("PRAGMA auto_vacuum"))

    assert vacuum == 2, "incremental"
    await store.close()
