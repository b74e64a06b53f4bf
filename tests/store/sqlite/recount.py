"""What a store counts and keeps in memory, checked against its tables."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

from task_server.store.sqlite.connection import open_reader
from task_server.store.sqlite.group import INLINE_BYTES
from task_server.store.sqlite.memory import Memory
from task_server.store.sqlite.store import SqliteStore

_CHECKS = {
    "load is not what waits": """
        SELECT kind, sum(n) FROM (
          SELECT kind, count(*) AS n FROM tasks WHERE state IN (0, 1) GROUP BY kind
          UNION ALL SELECT kind, -queued FROM kind_load
        ) GROUP BY kind HAVING sum(n) != 0""",
    "a batch is miscounted": """
        SELECT b.batch, b.total, b.succeeded, b.failed, b.cancelled, b.expired
        FROM batches b LEFT JOIN tasks t USING (batch) GROUP BY b.batch
        HAVING b.total != count(t.number) OR b.succeeded != ifnull(sum(t.state = 3), 0)
          OR b.failed != ifnull(sum(t.state = 4), 0) OR b.cancelled != ifnull(sum(t.state = 5), 0)
          OR b.expired != ifnull(sum(t.state = 6), 0)""",
    "a function's calls are miscounted": """
        SELECT f.function, f.calls, count(t.number)
        FROM function_statistics f JOIN kinds k USING (function)
        LEFT JOIN tasks t ON t.kind = k.kind AND t.state = 3
        GROUP BY f.function HAVING f.calls != count(t.number)""",
    "a task has ended without a place, or has one without an end": """
        SELECT number FROM tasks
        WHERE (n IS NULL) != (state < 3) OR (ended_at IS NULL) != (state < 3)""",
    "two tasks have one place": "SELECT n FROM tasks WHERE n > 0 GROUP BY n HAVING count(*) > 1",
    "a position is missing": """
        SELECT batch FROM tasks WHERE batch IS NOT NULL GROUP BY batch
        HAVING count(DISTINCT position) != count(*) OR max(position) != count(*) - 1""",
    "a task runs without a lease, or waits with one": """
        SELECT number FROM tasks WHERE (state = 2) != (secret IS NOT NULL) AND state < 3
          OR state = 2 AND (session IS NULL OR reply IS NULL OR started_at IS NULL)""",
    "a delayed task has no time, or another has one": """
        SELECT t.number FROM tasks t LEFT JOIN task_extras x USING (number)
        WHERE (t.state = 1) != (x.delayed_until IS NOT NULL)""",
    "a plain lease has no end, or something else has one": """
        SELECT t.number FROM tasks t LEFT JOIN task_extras x USING (number)
        LEFT JOIN sessions s USING (session)
        WHERE (t.state = 2 AND s.is_plain) != (x.leased_until IS NOT NULL)""",
    "success without an answer, or the reverse": """
        SELECT number FROM tasks WHERE state = 3 AND encoding IS NULL
          OR state NOT IN (3, 4) AND encoding IS NOT NULL""",
}


async def recount(store: SqliteStore) -> None:
    """Fail where the memory or a counter differs from the tables."""
    memory = store.memory
    connection = open_reader(store.path)
    try:
        await asyncio.to_thread(_compare, connection, memory)
    finally:
        connection.close()


def _compare(connection: sqlite3.Connection, memory: Memory) -> None:
    for fault, query in _CHECKS.items():
        assert connection.execute(query).fetchall() == [], fault
    rows = connection.execute("SELECT kind, queued FROM kind_load WHERE queued > 0")
    assert memory.load == dict(rows)
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
