"""What is done before a database is worked with: it is looked at, and gets its tables."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from task_server.store.postgres.store import PostgresStore
from task_server.store.records.sql import Work
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

T = TypeVar("T")


async def open_store(
    url: str,
    *,
    lease_seconds: float,
    policy: Policy | None = None,
    on_broken: Callable[[], None] | None,
    on_time: Callable[[float], None] | None,
) -> PostgresStore:
    """A server's store. Raises DatabaseUnusable: why, and what to do."""
    connection = await _usable(url, tells=True)
    await connection.close()
    with _explained(url):
        return await PostgresStore.open(
            url,
            lease_seconds=lease_seconds,
            policy=policy,
            on_broken=on_broken,
            on_time=on_time,
        )


async def change(url: str, work: Work[T]) -> T:
    """Do something to the records, in a transaction. Raises DatabaseUnusable, Unavailable."""
    connection = await _usable(url)

    async def once() -> T:
        async with connection.transaction():
            return await work(PgRows(connection))

    try:
        with _explained(url):
            return await retrying(once)
    finally:
        await connection.close()


async def _usable(url: str, *, tells: bool = False) -> Connection:
    """A connection to a database with the newest tables; `tells` what is not durable there."""
    connection = await first_connection(url)
    try:
        with _explained(url):
            for warning in await warnings(connection):
                log.log(logging.WARNING if tells else logging.DEBUG, "the database's %s", warning)
            await migrate(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Whatever the database refuses becomes DatabaseUnusable."""
    try:
        yield
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise unusable(url, error) from error
