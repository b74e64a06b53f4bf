"""From a database URL to a store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from task_server.errors import TaskServerError
from task_server.store.contract import Store
from task_server.store.records.sql import Work, finish_now
from task_server.store.sqlite.connection import open_writer
from task_server.store.sqlite.filesystem import check_filesystem
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.sqlite.store import SqliteStore
from task_server.store.transitions import Policy

T = TypeVar("T")


def sqlite_path(url: str) -> Path:
    """The file of `sqlite:///PATH`. Raises TaskServerError for another database."""
    if not url.startswith("sqlite:///"):
        raise TaskServerError(
            f"the database is sqlite:///PATH or postgresql://..., not {url.partition(':')[0]!r}"
        )
    return Path(url.removeprefix("sqlite:///"))


def folder_of(url: str) -> Path | None:
    """The folder that a database fills, made if need be; None for one of another machine.

    Raises DatabaseUnusable when nothing can be kept there.
    """
    if not url.startswith("sqlite:"):
        return None
    path = sqlite_path(url).absolute()
    check_filesystem(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path.parent


def is_postgres(url: str) -> bool:
    """Whether a URL names a PostgreSQL database."""
    return url.startswith(("postgresql://", "postgres://"))


def shown(url: str) -> str:
    """A database as it can be shown: its file, or its address without password."""
    if not is_postgres(url):
        return str(sqlite_path(url))
    address: str = postgres_part("connection").shown(url)
    return address


async def open_store(
    url: str,
    *,
    clock: Callable[[], float],
    lease_seconds: float,
    policy: Policy | None = None,
    on_broken: Callable[[], None] | None = None,
    on_time: Callable[[float], None] | None = None,
) -> Store:
    """Open a database for a server. Raises TaskServerError when it cannot be used.

    `on_time` hears the database's time now and then, if that has a clock of its own.
    """
    if is_postgres(url):
        opened: Store = await postgres_part("opening").open_store(
            url, lease_seconds=lease_seconds, policy=policy, on_broken=on_broken, on_time=on_time
        )
        return opened
    return SqliteStore(
        sqlite_path(url),
        clock=clock,
        lease_seconds=lease_seconds,
        policy=policy,
        on_broken=on_broken,
    )


def change(url: str, work: Work[T]) -> T:
    """Do something to the records of a database, beside its servers or without any."""
    if is_postgres(url):
        changed: T = _elsewhere(postgres_part("opening").change(url, work))
        return changed
    connection = open_writer(sqlite_path(url))
    try:
        connection.execute("BEGIN IMMEDIATE")
        result = finish_now(work(SqliteRows(connection)))
        connection.execute("COMMIT")
        return result
    finally:
        connection.close()


def postgres_part(module: str) -> Any:
    """A module of the store on PostgreSQL. Raises TaskServerError without its driver."""
    try:
        return import_module(f"task_server.store.postgres.{module}")
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise TaskServerError(
            "PostgreSQL needs a driver; run: pip install 'task-server[postgres]'"
        ) from error


def _elsewhere(work: Coroutine[Any, Any, T]) -> T:
    """Wait for work in a thread of its own: there may be an event loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
