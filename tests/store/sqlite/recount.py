"""What a store counts and keeps in memory, checked against its tables."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Mapping
from typing import Any

from task_server.store.outcomes import INLINE_BYTES
from task_server.store.sqlite.check import faults
from task_server.store.sqlite.connection import open_reader
from task_server.store.sqlite.memory import Memory
from task_server.store.sqlite.store import SqliteStore
from tests.store.recount import CHECKS, EXACT

_STORED = """
    SELECT kind, sum(n) FROM (
      SELECT kind, count(*) AS n FROM tasks GROUP BY kind
      UNION ALL SELECT kind, -stored FROM kind_load
    ) GROUP BY kind HAVING sum(n) != 0"""


async def recount(store: SqliteStore, *, is_exact: bool = True) -> None:
    """Fail where the memory or a counter differs from the tables."""
    memory = store.memory
    connection = open_reader(store.path)
    try:
        await asyncio.to_thread(_compare, connection, memory, EXACT if is_exact else {})
    finally:
        connection.close()


def _compare(connection: sqlite3.Connection, memory: Memory, exact: Mapping[str, str]) -> None:
    found = faults(connection)
    assert not found, found
    for fault, query in {**CHECKS, **exact}.items():
        assert connection.execute(query).fetchall() == [], fault
    rows = connection.execute("SELECT kind, queued FROM kind_load WHERE queued > 0")
    assert memory.load == dict(rows)
    miscounted = connection.execute(_STORED).fetchall()
    assert miscounted == [], "rows of a kind are miscounted"
    awaited = {after for (after,) in connection.execute("SELECT after FROM dependencies")}
    assert awaited <= memory.awaited, "somebody waits for what is not known to be awaited"
    _compare_leases(connection, memory)
    _compare_windows(connection, memory)
    _compare_statistics(connection, memory)
    highest = connection.execute("SELECT ifnull(max(n), 0), ifnull(max(number), 0) FROM tasks")
    n, number = highest.fetchone()
    assert memory.next_n > n and memory.next_number > number


def _compare_leases(connection: sqlite3.Connection, memory: Memory) -> None:
    rows = connection.execute(
        "SELECT session, number, attempt, secret, reply FROM tasks WHERE state = 2"
    )
    held = {
        (session.row, running.number, running.attempt, running.secret, running.reply)
        for session in memory.sessions_by_row.values()
        for running in session.leases.values()
    }
    assert held == set(rows), "leases in memory are not those in the table"
    for session in memory.sessions.values():
        assert not session.is_over and memory.sessions_by_row[session.row] is session


def _compare_windows(connection: sqlite3.Connection, memory: Memory) -> None:
    for lane in memory.lanes.values():
        rows: list[Any] = connection.execute(
            "SELECT due_at, tie, number FROM tasks WHERE state = 0 AND lane = ?"
            " ORDER BY due_at, tie, number",
            (lane.number,),
        ).fetchall()
        window = lane.window
        known = rows if window.is_complete else [key for key in rows if key <= window.bound]
        assert [entry.key for entry in window.entries] == known, "a window is not its lane's head"
        assert not rows or lane.number in memory.active
        for entry in window.entries:
            assert not entry.is_fresh and len(entry.payload or b"") <= INLINE_BYTES


def _compare_statistics(connection: sqlite3.Connection, memory: Memory) -> None:
    rows = connection.execute(
        "SELECT function, calls, failures, run_seconds, queue_seconds FROM function_statistics"
    )
    kept = {function: rest for function, *rest in rows}
    for number, known in memory.functions_by_number.items():
        counted = [known.calls, known.failures, known.run_seconds, known.queue_seconds]
        assert kept.get(number, [0, 0, 0.0, 0.0]) == counted, "statistics differ from the table"
