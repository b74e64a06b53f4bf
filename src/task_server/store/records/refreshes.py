"""Locks that were made anew on purpose: new tasks of those requests get them, old ones do not."""

from __future__ import annotations

from task_server.store.records import environments
from task_server.store.records.sql import Rows, first


async def add(
    rows: Rows, request: str, *, environment: str, python: str, lock: str, now: float
) -> None:
    """From now on tasks of this request (its text) get that lock."""
    await environments.keep(rows, environment, python=python, lock=lock, now=now)
    await rows.execute(
        "INSERT INTO refreshes (request, environment, refreshed_at) VALUES (?, ?, ?)"
        " ON CONFLICT (request) DO UPDATE"
        " SET environment = excluded.environment, refreshed_at = excluded.refreshed_at",
        request,
        environment,
        now,
    )


async def listed(rows: Rows) -> dict[str, str]:
    """Text of a request -> digest of its lock."""
    found = await rows.fetch("SELECT request, environment FROM refreshes")
    return dict(found)


async def mark(rows: Rows) -> tuple[int, float]:
    """Changes whenever a lock is refreshed."""
    row = await first(rows, "SELECT count(*), coalesce(max(refreshed_at), 0) FROM refreshes")
    assert row is not None
    return int(row[0]), float(row[1])
