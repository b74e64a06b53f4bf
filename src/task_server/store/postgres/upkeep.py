"""The upkeep that is PostgreSQL's own: what tasks leave behind, and how much it all takes.

Other servers have kinds in memory. So a kind that no task needs is marked first; each server that
sees the mark forgets it, and takes it back before it uses the kind again. Only then it goes. What
kinds name is held by foreign keys: a server that uses what has gone is told so, and reads anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from task_server.store.postgres.group import Group
from task_server.store.postgres.groups import Alone
from task_server.store.postgres.servers import Servers
from task_server.store.records import blobs
from task_server.store.records.sql import Rows

PIECE = 500
"""Of each in one transaction."""
REST_SECONDS = 60.0
"""Between the mark and the end of a kind: much longer than a server that does not look may work."""

_STORED = "coalesce((SELECT sum(l.stored) FROM kind_load l WHERE l.kind = k.kind), 0)"
_MARK = f"""
UPDATE kinds SET unused_since = $1
 WHERE kind IN (SELECT k.kind FROM kinds k WHERE k.unused_since IS NULL AND {_STORED} <= 0
                 ORDER BY k.kind LIMIT $2)"""
_UNMARK = f"""
UPDATE kinds k SET unused_since = NULL WHERE k.unused_since IS NOT NULL AND {_STORED} > 0"""
_KINDS = f"""
DELETE FROM kinds
 WHERE unused_since <= $1
   AND kind IN (SELECT k.kind FROM kinds k WHERE k.unused_since <= $1 AND {_STORED} <= 0
                 ORDER BY k.kind LIMIT $2)
RETURNING kind"""
_KIND_LOAD = "DELETE FROM kind_load WHERE kind = ANY($1::int[])"
_LANES = """
DELETE FROM lanes WHERE lane IN (
  SELECT l.lane FROM lanes l WHERE NOT EXISTS (SELECT FROM kinds k WHERE k.lane = l.lane)
   ORDER BY l.lane LIMIT $1)
RETURNING lane"""
_REQUESTS = """
DELETE FROM environment_requests WHERE request IN (
  SELECT r.request FROM environment_requests r
   WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.request = r.request)
     AND NOT EXISTS (SELECT FROM environment_orders o WHERE o.request = r.text)
   ORDER BY r.request LIMIT $1)
RETURNING request"""
_REST_FUNCTIONS = """
UPDATE functions SET unused_since = $1
 WHERE unused_since IS NULL
   AND NOT EXISTS (SELECT FROM kinds k WHERE k.function = functions.function)
RETURNING function"""
_OLD_FUNCTIONS = """
SELECT f.function FROM functions f
 WHERE f.unused_since <= $1 AND NOT EXISTS (SELECT FROM kinds k WHERE k.function = f.function)
 ORDER BY f.function LIMIT $2 FOR UPDATE"""
_FORGET_FUNCTIONS = (
    "DELETE FROM function_statistics WHERE function = ANY($1::int[])",
    "DELETE FROM batch_totals WHERE function = ANY($1::int[])",
    "DELETE FROM function_models WHERE function = ANY($1::int[])",
    "DELETE FROM functions WHERE function = ANY($1::int[])",
)


class Upkeep:
    """Mixed into the store."""

    servers: Servers
    read: Callable[..., Awaitable[Any]]
    _put: Callable[..., Awaitable[Any]]

    async def leads(self) -> bool:
        """Whether upkeep that one server is enough for is this server's now."""
        return self.servers.leads

    async def stored_bytes(self) -> int:
        """The database's files, and all blobs."""
        found: int = await self.read(_stored_bytes)
        return found

    async def forget_unused(self, *, keep_seconds: float) -> int:
        """Remove kinds, lanes, requests and functions that no task needs."""
        removed: int = await self._put(
            Alone(lambda group: _forget(group, keep_seconds), deals=False)
        )
        return removed

    async def give_back_space(self) -> bool:
        """PostgreSQL does so by itself."""
        return False


async def _stored_bytes(rows: Rows) -> int:
    ((size,),) = await rows.fetch("SELECT pg_database_size(current_database())")
    return int(size) + await blobs.total_bytes(rows)


async def _forget(group: Group, keep_seconds: float) -> int:
    group.is_durable = True
    await group.execute(_UNMARK)
    kinds = [kind for (kind,) in await group.fetch(_KINDS, group.now - REST_SECONDS, PIECE)]
    if kinds:
        await group.execute(_KIND_LOAD, kinds)
    marked = await group.execute(_MARK, group.now, PIECE)
    lanes = [lane for (lane,) in await group.fetch(_LANES, PIECE)]
    requests = [request for (request,) in await group.fetch(_REQUESTS, PIECE)]
    resting = await group.fetch(_REST_FUNCTIONS, group.now)
    functions = await _forget_functions(group, group.now - keep_seconds)
    memory = group.memory
    group.on_commit.append(lambda: memory.forget(kinds, lanes, requests, functions))
    return sum(map(len, (kinds, lanes, requests, resting, functions))) + marked


async def _forget_functions(group: Group, before: float) -> list[int]:
    rows = await group.fetch(_OLD_FUNCTIONS, before, PIECE)
    functions = [function for (function,) in rows]
    if functions:
        for statement in _FORGET_FUNCTIONS:
            await group.execute(statement, functions)
    return functions
