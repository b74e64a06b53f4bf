"""What is looked up often passes by no tasks but those that it is about."""

from __future__ import annotations

import sqlite3
from typing import Any

from task_server.store.records import batches
from task_server.store.sqlite.connection import open_reader
from task_server.store.sqlite.rows import SqliteRows
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import batch

OPEN_ONES = ("tasks_running", "tasks_ready")
"""Indexes of a part of the tasks."""


class Explaining(SqliteRows):
    """Notes which tables each statement passes from end to end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.passed: list[str] = []

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        plan = self._connection.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
        self.passed += [step for *_, step in plan if step.startswith("SCAN")]
        return await super().fetch(sql, *values)


async def test_a_look_at_a_batch_passes_by_no_other_tasks(world: SqliteWorld) -> None:
    made = batch()
    await world.submit(count=3, batch=made)
    connection = open_reader(world.store.path)
    rows = Explaining(connection)

    found = await batches.find(rows, made.id, None)

    assert found is not None and found.total == 3
    tasks = [step for step in rows.passed if step.split()[1] in ("t", "tasks")]
    assert all(any(index in step for index in OPEN_ONES) for step in tasks), tasks
    connection.close()
