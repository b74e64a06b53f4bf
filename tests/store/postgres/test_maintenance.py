"""`db check` and `db upgrade` on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from task_server.errors import DatabaseUnusable
from task_server.store import maintenance
from task_server.store.postgres.maintenance import check
from task_server.store.postgres.migrate import newest_version
from task_server.store.rows import Upgrade

pytestmark = pytest.mark.postgres


async def tamper(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def test_an_untouched_database_is_whole(database: str, tmp_path: Path) -> None:
    assert maintenance.check(database, tmp_path) == []


async def test_rows_that_contradict_each_other_are_found(database: str) -> None:
    await tamper(
        database,
        "INSERT INTO payloads VALUES (7, 0, ''), (8, 0, ''); INSERT INTO logs VALUES (9, 1, 'x')",
    )

    findings = {each.what: (each.count, each.example) for each in await check(database, None)}

    assert findings == {
        "arguments or an outcome without a task": (2, "number 7"),
        "a log without a task": (1, "number 9"),
    }


def test_an_empty_database_is_upgraded_once(empty_database: str) -> None:
    newest = newest_version()

    with pytest.raises(DatabaseUnusable, match="db upgrade"):
        maintenance.check(empty_database, None)
    assert maintenance.upgrade(empty_database) == Upgrade(0, newest)
    assert maintenance.upgrade(empty_database) == Upgrade(newest, newest)


def test_backups_are_left_to_its_own_tools(database: str, tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnusable, match="pg_dump"):
        maintenance.backup(database, tmp_path / "x.db", blobs=None, copies_blobs=False)
