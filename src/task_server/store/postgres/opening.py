"""What is done before a database is worked with: it is looked at, and gets its tables."""

from __future__ import annotations

import logging
from typing import TypeVar

import asyncpg

from task_server.store.postgres.checks import warnings
from task_server.store.postgres.connection import (
    Connection,
    PgRows,
    first_connection,
    retrying,
    unusable,
)
from task_server.store.postgres.migrate import migrate
from task_server.store.records.sql import Work

log = logging.getLogger(__name__)

T = TypeVar("T")


async def prepare(url: str) -> None:
    """Make sure that a server can work here. Raises DatabaseUnusable."""
    connection = await _usable(url)
    try:
        for warning in await warnings(connection):
            log.warning("the database's %s", warning)
    finally:
        await connection.close()


async def change(url: str, work: Work[T]) -> T:
    """Do something to the records, in a transaction. Raises DatabaseUnusable, Unavailable."""
    connection = await _usable(url)

    async def once() -> T:
        async with connection.transaction():
            return await work(PgRows(connection))

    try:
        return await retrying(once)
    finally:
        await connection.close()


async def _usable(url: str) -> Connection:
    connection = await first_connection(url)
    try:
        await migrate(connection)
    except BaseException as error:
        connection.terminate()
        if isinstance(error, (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)):
            raise unusable(url, error) from error
        raise
    return connection
