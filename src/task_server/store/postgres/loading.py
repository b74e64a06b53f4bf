"""What a server reads when it starts, and each second: what the others have changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from task_server.scheduling.placement import MAXIMUM_KNOWN
from task_server.scheduling.statistics import Statistics
from task_server.store.postgres.known import (
    know_kinds,
    know_lanes,
    know_new_functions,
    know_open_requests,
)
from task_server.store.postgres.memory import Memory
from task_server.store.postgres.shares import Ledger

LATE_SECONDS = 15.0
"""A row may become visible so long after the moment that it bears."""

_NEXT_PLACE = """
SELECT greatest(s.next_n, coalesce(
         (SELECT n FROM tasks WHERE server = s.server AND n IS NOT NULL
           ORDER BY n DESC LIMIT 1), 0) + 1)
  FROM servers s WHERE s.server = $1"""
PLACES = """
SELECT s.server, coalesce((SELECT t.n FROM tasks t WHERE t.server = s.server AND t.n IS NOT NULL
                            ORDER BY t.n DESC LIMIT 1), 0)
  FROM servers s"""
_STATISTICS = """
SELECT server, function, changed_at, calls, failures, first_seconds, run_seconds, queue_seconds,
       install_seconds, import_seconds, cpu_seconds, peak_bytes, histogram, accuracy, pace,
       peaks
  FROM function_statistics WHERE changed_at > $1 AND ($2 OR server <> $3)"""
_WAITING_KINDS = "SELECT kind FROM kind_load GROUP BY kind HAVING sum(queued) > 0"
_UNUSED_KINDS = "SELECT kind FROM kinds WHERE unused_since IS NOT NULL"
_ACTIVE = """
SELECT l.lane FROM lanes l
 CROSS JOIN LATERAL (SELECT FROM tasks t WHERE t.state = 0 AND t.lane = l.lane LIMIT 1) AS found"""
_BROKEN = """
SELECT worker, environment, broken_until FROM worker_environments WHERE broken_until IS NOT NULL"""
_SPEEDS = "SELECT worker, runs, slowness FROM workers WHERE runs > 0 LIMIT $1"
SHARES = "SELECT owner, sum(charged_seconds) FROM shares GROUP BY owner"


async def next_place(connection: Any, server: int) -> int:
    """The next place among the tasks that a server ends."""
    place: int = await connection.fetchval(_NEXT_PLACE, server)
    return place


async def places(connection: Any) -> dict[int, int]:
    """The last place of each server."""
    return dict(await connection.fetch(PLACES))


async def load(connection: Any, memory: Memory) -> None:
    """Read all that a server starts with."""
    memory.next_n = await next_place(connection, memory.server)
    await know_open_requests(connection, memory)
    await know_new_functions(connection, memory)
    _count(memory, await connection.fetch(_STATISTICS, float("-inf"), True, memory.server))
    kinds = await connection.fetch(_WAITING_KINDS)
    # What waits is priced by kind, without asking the database.
    await know_kinds(connection, memory, (kind for (kind,) in kinds))
    await look_for_lanes(connection, memory)
    await read_broken(connection, memory)
    memory.placement.restore(await connection.fetch(_SPEEDS, MAXIMUM_KNOWN))
    active = {memory.lanes[lane].owner for lane in memory.active}
    memory.shares = Ledger(dict(await connection.fetch(SHARES)), active=active)


async def reload(connection: Any, memory: Memory) -> None:
    """On a new connection: what a commit of unknown end has done, and what is no more.

    A standby that has become the primary may lack the latest: numbers that were given for one
    thing are then given for another.
    """
    memory.plain.clear()
    await read_again(connection, memory)
    memory.next_n = max(memory.next_n, await next_place(connection, memory.server))
    await look_for_lanes(connection, memory)


async def read_again(connection: Any, memory: Memory) -> None:
    """Read all rows that are in memory and may have been removed; till then they serve."""
    read = Memory(memory.server)
    await know_open_requests(connection, read)
    await know_new_functions(connection, read)
    _count(read, await connection.fetch(_STATISTICS, float("-inf"), True, memory.server))
    memory.know_only(read)


async def refresh(connection: Any, memory: Memory) -> None:
    """Read what the other servers have changed."""
    memory.unused.update(kind for (kind,) in await connection.fetch(_UNUSED_KINDS))
    await know_open_requests(connection, memory)
    await know_new_functions(connection, memory)
    since = memory.counted_to - LATE_SECONDS
    _count(memory, await connection.fetch(_STATISTICS, since, False, memory.server))
    await read_broken(connection, memory)


def _count(memory: Memory, rows: Sequence[Any]) -> None:
    for server, function, changed_at, *kept in rows:
        memory.counted_to = max(memory.counted_to, changed_at)
        if function in memory.function_keys:
            statistics = Statistics(function, memory.function_keys[function][0])
            statistics.restore(*kept)
            if server == memory.server:
                memory.count(statistics)
            else:
                memory.count_other(server, statistics)


async def look_for_lanes(connection: Any, memory: Memory) -> None:
    """Which lanes have something queued."""
    found = {lane for (lane,) in await connection.fetch(_ACTIVE)}
    await know_lanes(connection, memory, found)
    for lane in found - memory.active:
        memory.wake_lane(lane)


async def read_broken(connection: Any, memory: Memory) -> None:
    """Which workers cannot build which environments for now."""
    rows = await connection.fetch(_BROKEN)
    memory.broken = {(worker, environment): until for worker, environment, until in rows}
