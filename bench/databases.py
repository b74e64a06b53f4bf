"""Databases to be measured: files of SQLite, or those of one PostgreSQL of their own."""

from __future__ import annotations

import random
import sqlite3
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Protocol

import asyncpg

from bench.targets import DatabaseKind
from task_server.store.opening import sqlite_path
from tests.postgres import Cluster, cluster

SPREAD_SECONDS = [10.0 * 2.0**power for power in range(-6, 9)]
"""What estimates add to the time a task became ready: ten times a power of two."""


class Database(Protocol):
    """One database; nobody uses it while `spread` works."""

    url: str
    processes: list[int]
    """Ids of its own processes that have children; none where servers do its work."""

    def spread(self) -> None:
        """Give each task a due time of its own."""

    def old_snapshot(self) -> AbstractAsyncContextManager[None]:
        """Read what is committed at the start of the block, until its end."""


class SqliteDatabase:
    """A file."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.processes: list[int] = []

    def spread(self) -> None:
        """Give each task a due time of its own."""
        with self._connection() as connection:
            connection.create_function("spread", 0, lambda: random.choice(SPREAD_SECONDS))
            connection.execute("UPDATE tasks SET due_at = ready_at + spread()")
            connection.commit()

    @asynccontextmanager
    async def old_snapshot(self) -> AsyncIterator[None]:
        """Read what is committed at the start of the block, until its end."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM lanes").fetchall()
            yield

    def _connection(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(sqlite_path(self.url)))


class PostgresDatabase:
    """A database of a cluster."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        assert cluster.process is not None
        self.url = cluster.url(name)
        self.processes = [cluster.process.pid]
        self._cluster, self._name = cluster, name

    def spread(self) -> None:
        """Give each task a due time of its own; the rows as they were leave no trace."""
        seconds = f"(ARRAY{SPREAD_SECONDS})[1 + floor(random() * {len(SPREAD_SECONDS)})::int]"
        self._cluster.do(
            f"UPDATE tasks SET due_at = ready_at + {seconds}", "VACUUM tasks", database=self._name
        )

    @asynccontextmanager
    async def old_snapshot(self) -> AsyncIterator[None]:
        """Read what is committed at the start of the block, until its end."""
        connection = await asyncpg.connect(self.url)
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await connection.fetch("SELECT count(*) FROM lanes")
        yield
        await connection.close()


@contextmanager
def databases(
    kind: DatabaseKind,
    *names: str,
    settings: Sequence[str] = (),
    parent: Path | None = None,
) -> Iterator[list[Database]]:
    """Empty databases that are removed when the block ends; `settings` of PostgreSQL."""
    with tempfile.TemporaryDirectory(prefix="task-server-bench-", dir=parent) as made:
        folder = Path(made)
        if kind == "sqlite":
            yield [SqliteDatabase(f"sqlite:///{folder / name}.db") for name in names]
            return
        folder.chmod(0o711)  # root's PostgreSQL works for another user
        with cluster(*settings, parent=folder) as running:
            running.do(*(f"CREATE DATABASE {name}" for name in names))
            yield [PostgresDatabase(running, name) for name in names]
