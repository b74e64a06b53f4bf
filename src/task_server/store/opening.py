"""From a database URL to a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from task_server.errors import TaskServerError
from task_server.store.contract import Store
from task_server.store.records.sql import Work, finish_now
from task_server.store.sqlite.connection import open_writer
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.sqlite.store import SqliteStore

T = TypeVar("T")


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH`. Raises TaskServerError for another database."""
    if not url.startswith("sqlite:///"):
        raise TaskServerError("the database is sqlite:///PATH; others are not supported yet")
    return Path(url.removeprefix("sqlite:///"))


async def open_store(
    url: str,
    *,
    clock: Callable[[], float],
    lease_seconds: float,
    on_broken: Callable[[], None] | None = None,
) -> Store:
    """Open a database for a server. Raises TaskServerError when it cannot be used."""
    return SqliteStore(
        sqlite_path(url), clock=clock, lease_seconds=lease_seconds, on_broken=on_broken
    )


def change(url: str, work: Work[T]) -> T:
    """Do something to the records of a database, beside its servers or without any."""
    connection = open_writer(sqlite_path(url))
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = finish_now(work(SqliteRows(connection)))
        connection.execute("COMMIT")
        return result
    finally:
        connection.close()
