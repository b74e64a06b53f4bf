"""What a store on PostgreSQL counts, checked against its tables."""

from __future__ import annotations

from typing import Any

import asyncpg

from task_server.store.postgres.memory import Memory
from task_server.store.postgres.store import PostgresStore
from tests.store.recount import CHECKS, EXACT

_COUNTS = """
SELECT function, sum(calls)::bigint, sum(failures)::bigint, sum(run_seconds), sum(queue_seconds)
  FROM function_statistics GROUP BY function"""


async def recount(
    connection: asyncpg.Connection, store: PostgresStore, *, is_exact: bool = True
) -> None:
    """Fail where a counter or what the one server has in memory differs from the tables."""
    await look_for_faults(connection, is_exact=is_exact)
    await _compare_lanes(connection, store.memory)
    await _compare_statistics(connection, store.memory)
    await _compare_places(connection, store.memory)


async def recount_tables(url: str, *, is_exact: bool = True) -> None:
    """Fail where a counter differs from what it counts, whoever wrote it."""
    connection = await asyncpg.connect(url)
    try:
        await look_for_faults(connection, is_exact=is_exact)
    finally:
        await connection.close()


async def look_for_faults(connection: Any, *, is_exact: bool = True) -> None:
    """Fail where a counter differs from what it counts; a connection that is kept is quick."""
    checks = {**CHECKS, **(EXACT if is_exact else {})}
    each = [f"SELECT {n} WHERE EXISTS ({query})" for n, query in enumerate(checks.values())]
    found = await connection.fetch(" UNION ALL ".join(each))
    assert found == [], [list(checks)[n] for (n,) in found]


async def _compare_lanes(connection: Any, memory: Memory) -> None:
    rows = await connection.fetch(
        "SELECT lane, min(due_at) AS due_at FROM tasks WHERE state = 0 GROUP BY lane"
    )
    for lane, due_at in rows:
        assert lane in memory.active, "a lane has something queued, and is not looked at"
        assert memory.hint(lane).head <= due_at, "looks begin behind the first queued task"


async def _compare_statistics(connection: Any, memory: Memory) -> None:
    kept = {function: tuple(rest) for function, *rest in await connection.fetch(_COUNTS)}
    for number, known in memory.functions_by_number.items():
        counted = (known.calls, known.failures, known.run_seconds, known.queue_seconds)
        assert kept.get(number, (0, 0, 0.0, 0.0)) == counted, "statistics differ from the table"


async def _compare_places(connection: Any, memory: Memory) -> None:
    place = await connection.fetchval(
        "SELECT coalesce(max(n), 0) FROM tasks WHERE server = $1", memory.server
    )
    assert memory.next_n > place
