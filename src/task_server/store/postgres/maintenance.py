"""What is done to a PostgreSQL database as a whole."""

from __future__ import annotations

from pathlib import Path

import asyncpg

from task_server.errors import DatabaseUnusable
from task_server.store.postgres.connection import (
    Connection,
    PgRows,
    first_connection,
    shown,
    unusable,
)
from task_server.store.postgres.migrate import migrate, newest_version, version_of
from task_server.store.records.checks import (
    CHECKS,
    Finding,
    fault,
    missing,
    needed_blobs,
    wheels,
)
from task_server.store.rows import Upgrade

_FAILED = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


async def upgrade(url: str) -> Upgrade:
    """Bring the tables to the newest version. Raises DatabaseUnusable."""
    connection = await first_connection(url)
    try:
        return Upgrade(*await migrate(connection))
    except _FAILED as error:
        raise unusable(url, error) from error
    finally:
        connection.terminate()


async def check(url: str, blobs: Path | None) -> list[Finding]:
    """What is wrong with the rows and the blobs; nothing is changed. Raises DatabaseUnusable."""
    connection = await first_connection(url)
    try:
        await _check_version(connection, url)
        # One state of the database, whatever its servers do.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = PgRows(connection)
            found = [await fault(rows, what) for what in CHECKS]
            needed = await needed_blobs(rows) | await wheels(rows) if blobs is not None else set()
    except _FAILED as error:
        raise unusable(url, error) from error
    finally:
        connection.terminate()
    lost = missing(needed, blobs) if blobs is not None else []
    return [*(each for each in found if each is not None), *lost]


async def _check_version(connection: Connection, url: str) -> None:
    version, newest = await version_of(connection), newest_version()
    if version != newest:
        raise DatabaseUnusable(
            f"database {shown(url)} has version {version}, this program checks {newest};"
            " `task-server db upgrade` brings an older one there"
        )
