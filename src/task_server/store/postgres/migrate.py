"""The tables' versions: numbered scripts, each one transaction, one server at a time.

The version stands in a row of `meta`. It changes in the transaction that changes the tables, so
that a kill in the middle leaves the version before, whole.
"""

from __future__ import annotations

import logging
from importlib import resources
from importlib.resources.abc import Traversable

from task_server.errors import DatabaseUnusable
from task_server.store.postgres.connection import Connection

log = logging.getLogger(__name__)

SCRIPTS: Traversable = resources.files("task_server.store.postgres") / "migrations"
LOCK = 0x7461736B
"""Number of the advisory lock that migrations hold."""


async def migrate(connection: Connection, folder: Traversable = SCRIPTS) -> tuple[int, int]:
    """Bring the tables to the newest version; gives the versions before and after.

    Waits while another server does the same. Raises DatabaseUnusable for a newer database, and
    asyncpg.PostgresError when a script fails; the version before that script is kept then.
    """
    scripts = _scripts(folder)
    newest = scripts[-1][0]
    before = await version_of(connection)
    _check(before, newest)
    if before < newest:
        # Not within the transactions: only one that begins after it sees what others have made.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK)
        try:
            await _run(connection, scripts)
        finally:
            if not connection.is_closed():
                await connection.execute("SELECT pg_advisory_unlock($1)", LOCK)
    after = await version_of(connection)
    _check(after, newest)
    if 0 < before < after:
        log.info("the database was upgraded from version %d to %d", before, after)
    return before, after


def newest_version(folder: Traversable = SCRIPTS) -> int:
    """The version that this program works with."""
    return _scripts(folder)[-1][0]


async def version_of(connection: Connection) -> int:
    """The version of a database; 0 for one without tables."""
    if await connection.fetchval("SELECT to_regclass('meta')") is None:
        return 0
    version = await connection.fetchval("SELECT value FROM meta WHERE name = 'version'")
    return int(version or 0)


async def _run(connection: Connection, scripts: list[tuple[int, str]]) -> None:
    for number, script in scripts:
        async with connection.transaction():
            if await version_of(connection) >= number:
                continue  # done before, perhaps by another server meanwhile
            await connection.execute(script)
            await connection.execute(
                "INSERT INTO meta (name, value) VALUES ('version', $1)"
                " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                str(number),
            )


def _check(version: int, newest: int) -> None:
    if version > newest:
        raise DatabaseUnusable(
            "the database was made by a newer version of task-server: it has version"
            f" {version}, this program knows {newest}; install the newer task-server again"
        )


def _scripts(folder: Traversable) -> list[tuple[int, str]]:
    found = [
        (int(entry.name.split("_")[0]), entry.read_text())
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)
