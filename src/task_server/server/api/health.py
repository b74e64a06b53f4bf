"""`/livez`, `/readyz`."""

from __future__ import annotations

import asyncio

import msgspec

from task_server.server.http import Call, Reply, encode
from task_server.server.routing import PUBLIC, Route
from task_server.server.state import State
from task_server.store.rows import DatabaseHealth

WAIT_SECONDS = 5.0
"""A database that does not answer within this time does not do its work."""


async def live(state: State, call: Call) -> Reply:
    """The process answers."""
    return Reply(encode({"live": True}))


async def ready(state: State, call: Call) -> Reply:
    """Whether requests can be taken, and why not: 200, or 503 when none can.

    Short of disk or memory it is ready all the same: answers come and go, only intake is off.
    """
    database = await _database(state)
    is_ready = database.is_writable and not state.is_stopping
    disk, memory = state.space.disk, state.space.memory
    told = {
        "ready": is_ready,
        "stopping": state.is_stopping,
        "intake": is_ready and not (disk.is_short or memory.is_short or state.budget.is_full),
        "database": {
            "kind": database.kind,
            "writable": database.is_writable,
            "version": database.version,
            "newest": database.newest,
        },
        "disk": msgspec.to_builtins(disk),
        "memory": msgspec.to_builtins(memory),
    }
    return Reply(encode(told), 200 if is_ready else 503)


async def _database(state: State) -> DatabaseHealth:
    try:
        return await asyncio.wait_for(state.store.health(), WAIT_SECONDS)
    except TimeoutError:
        kind = state.settings.database_url.partition(":")[0]
        return DatabaseHealth(kind, False, 0, 0)


ROUTES = [
    Route(method, path, handler, PUBLIC)
    for path, handler in (("/livez", live), ("/readyz", ready))
    for method in ("GET", "HEAD")
]
