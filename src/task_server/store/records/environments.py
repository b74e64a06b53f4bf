"""Environments, and the requests that are to be locked."""

from __future__ import annotations

from task_server.environments.lock import empty_lock
from task_server.store.records.sql import Rows, first


async def find(rows: Rows, digest: str) -> tuple[str, str, float] | None:
    """Python, lock and moment of an environment."""
    row = await first(
        rows, "SELECT python, lock, created_at FROM environments WHERE environment = ?", digest
    )
    return None if row is None else (row[0], row[1], row[2])


async def keep(rows: Rows, digest: str, *, python: str, lock: str, now: float) -> None:
    """Store a lock under its digest."""
    await rows.execute(
        "INSERT INTO environments (environment, python, lock, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        digest,
        python,
        lock,
        now,
    )


async def keep_empty(rows: Rows, python: str, *, now: float) -> None:
    """Store the lock of the empty environment of a Python."""
    lock = empty_lock(python)
    await keep(rows, lock.digest, python=python, lock=lock.text, now=now)


_WANTED = (
    "SELECT l.request FROM kind_load q JOIN kinds k USING (kind) JOIN lanes l USING (lane)"
    " GROUP BY l.request HAVING sum(q.queued) > 0"
)


async def open_requests(rows: Rows, now: float) -> list[tuple[str, str, int]]:
    """Environment requests to lock now: text, Python, tries so far.

    One that failed before is among them only while tasks wait for it, or while it is ordered.
    """
    found = await rows.fetch(
        "SELECT text, python, tries FROM environment_requests"
        f" WHERE state = 0 AND try_at <= ? AND (error IS NULL OR request IN ({_WANTED})"
        " OR text IN (SELECT request FROM environment_orders))"
        " ORDER BY try_at, request LIMIT 100",
        now,
    )
    return [(text, python, tries) for text, python, tries in found]


async def lock_later(rows: Rows, text: str, *, at: float, reason: str, counts: bool) -> None:
    """An environment request could not be locked now: not before `at` again."""
    await rows.execute(
        "UPDATE environment_requests SET tries = tries + ?, try_at = ?, error = ?"
        " WHERE text = ? AND state = 0",
        int(counts),
        at,
        reason,
        text,
    )
