"""The tables on PostgreSQL are made and changed whole, once, whoever comes."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from task_server.errors import DatabaseUnusable
from task_server.store.postgres.connection import connect_to_migrate
from task_server.store.postgres.migrate import SCRIPTS, migrate, version_of

META = "CREATE TABLE meta (name text PRIMARY KEY, value text);"


def scripts(folder: Path, *texts: str) -> Path:
    """A folder of numbered scripts."""
    for number, text in enumerate(texts, 1):
        (folder / f"{number:04}_step.sql").write_text(text)
    return folder


async def upgrade(url: str, folder: Path) -> tuple[int, int]:
    connection = await connect_to_migrate(url)
    try:
        return await migrate(connection, folder)
    finally:
        await connection.close()


async def version(url: str) -> int:
    connection = await connect_to_migrate(url)
    try:
        return await version_of(connection)
    finally:
        await connection.close()


async def test_an_empty_database_gets_all_tables(empty_database: str) -> None:
    connection = await connect_to_migrate(empty_database)

    before, after = await migrate(connection)

    newest = max(int(each.name[:4]) for each in SCRIPTS.iterdir() if each.name.endswith(".sql"))
    assert (before, after) == (0, newest)
    assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
    assert await migrate(connection) == (newest, newest)
    await connection.close()


async def test_an_older_database_is_brought_up_to_date(empty_database: str, tmp_path: Path) -> None:
    await upgrade(empty_database, scripts(tmp_path, META))
    folder = scripts(tmp_path, META, "CREATE TABLE second ()", "CREATE TABLE third ()")

    assert await upgrade(empty_database, folder) == (1, 3)


async def test_a_script_that_fails_leaves_the_version_before(
    empty_database: str, tmp_path: Path
) -> None:
    folder = scripts(tmp_path, META, "CREATE TABLE second (); SELECT 1 / 0;")

    with pytest.raises(asyncpg.DivisionByZeroError):
        await upgrade(empty_database, folder)

    assert await version(empty_database) == 1
    assert await upgrade(empty_database, scripts(tmp_path, META, "CREATE TABLE second ()")) == (
        1,
        2,
    )


async def test_a_server_killed_half_way_leaves_the_version_before(
    empty_database: str, tmp_path: Path
) -> None:
    folder = scripts(tmp_path, META, "CREATE TABLE second (); SELECT pg_sleep(60);")
    connection = await connect_to_migrate(empty_database)
    running = asyncio.ensure_future(migrate(connection, folder))
    other = await connect_to_migrate(empty_database)
    victim = connection.get_server_pid()
    waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'PgSleep'"
    while not await other.fetchval(waits, victim):  # noqa: ASYNC110  # of another process
        await asyncio.sleep(0.01)

    await other.execute("SELECT pg_terminate_backend($1)", victim)

    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await running
    connection.terminate()
    assert await version_of(other) == 1
    assert await other.fetchval("SELECT to_regclass('second')") is None
    await other.close()
    assert await upgrade(empty_database, scripts(tmp_path, META, "CREATE TABLE second ()")) == (
        1,
        2,
    )


async def test_servers_that_start_at_once_migrate_once(empty_database: str, tmp_path: Path) -> None:
    slow = "CREATE TABLE {} (); SELECT pg_sleep(0.05);"
    folder = scripts(tmp_path, META, slow.format("second"), slow.format("third"))

    outcomes = await asyncio.gather(*[upgrade(empty_database, folder) for _ in range(8)])

    assert {after for _, after in outcomes} == {3}


async def test_a_newer_database_is_refused(empty_database: str, tmp_path: Path) -> None:
    await upgrade(empty_database, scripts(tmp_path, META, "SELECT 1", "SELECT 1"))
    (tmp_path / "0003_step.sql").unlink()

    with pytest.raises(DatabaseUnusable, match="newer version of task-server: it has version 3"):
        await upgrade(empty_database, tmp_path)
