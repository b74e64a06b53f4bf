"""Workers as they last joined."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from task_server.store.records.sql import Rows
from task_server.store.sessions import WorkerFacts


class WorkerRow(Struct):
    """A worker. Times are Unix seconds."""

    worker: int
    id: str
    facts: WorkerFacts
    joined_at: float
    seen_at: float


async def listed(rows: Rows) -> list[WorkerRow]:
    """All workers, newest first."""
    found = await rows.fetch(
        "SELECT worker, id, facts, joined_at, seen_at FROM workers ORDER BY worker DESC LIMIT 1000"
    )
    return [
        WorkerRow(worker, identifier, msgspec.msgpack.decode(facts, type=WorkerFacts), *times)
        for worker, identifier, facts, *times in found
    ]
