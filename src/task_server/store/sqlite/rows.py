"""A SQLite connection as the records see it."""

from __future__ import annotations

import sqlite3
from typing import Any


class SqliteRows:
    """Never waits: each coroutine is done by its first step."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a SELECT, or of a RETURNING."""
        return self._connection.execute(sql, values).fetchall()

    async def execute(self, sql: str, *values: object) -> int:
        """How many rows a statement changed."""
        return self._connection.execute(sql, values).rowcount
