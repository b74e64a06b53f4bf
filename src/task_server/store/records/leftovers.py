"""What is left when tasks are gone: batches, keys, tombstones, sessions, workers, locks."""

from __future__ import annotations

from task_server.store.records.retention import DAY, Keep, oldest_id
from task_server.store.records.sql import Rows, execute_in

PIECE = 500
"""Rows of one kind in one transaction."""


async def empty_batches(rows: Rows, keep: Keep, *, now: float) -> list[int]:
    """Batches whose members are all gone, and open ones that nobody put anything into."""
    found = await rows.fetch(
        "SELECT b.batch FROM batches b WHERE b.id < ? AND b.purged >= b.total"
        " AND (b.is_open = 0 OR b.created_at <= ?)"
        " AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.batch = b.batch) LIMIT ?",
        oldest_id(now - keep.shortest),
        now - keep.longest,
        PIECE,
    )
    return [batch for (batch,) in found]


async def remove_batches(rows: Rows, batches: list[int]) -> int:
    """Remove these batches, but for those that were filled since they were found empty."""
    return await execute_in(
        rows, "DELETE FROM batches WHERE purged >= total AND batch IN ({keys})", sorted(batches)
    )


async def remove_keys(rows: Rows, *, now: float) -> int:
    """Remove keys of requests that are past their week and whose first task is gone."""
    found = await rows.fetch(
        "SELECT max(until) FROM"
        " (SELECT until FROM submit_keys WHERE until < ? ORDER BY until LIMIT ?) AS oldest",
        now,
        PIECE,
    )
    bound: float | None = found[0][0]
    if bound is None:
        return 0
    removed = await rows.execute(
        "DELETE FROM submit_keys WHERE until <= ?"
        " AND NOT EXISTS (SELECT 1 FROM tasks WHERE id = substr(submit_keys.reply, 1, 16))",
        bound,
    )
    # The rest lives as long as its task; it is looked at again tomorrow.
    kept = await rows.execute("UPDATE submit_keys SET until = ? WHERE until <= ?", now + DAY, bound)
    return removed + kept


async def remove_tombstones(rows: Rows, keep: Keep, *, now: float) -> int:
    """Remove tombstones of ids that are gone by their age."""
    return await rows.execute(
        "DELETE FROM tombstones WHERE id IN"
        " (SELECT id FROM tombstones WHERE id < ? ORDER BY id LIMIT ?)",
        oldest_id(now - keep.shortest),
        PIECE,
    )


async def remove_sessions(rows: Rows, keep: Keep, *, now: float) -> int:
    """Remove sessions that ended longer ago than any task is kept by itself, and hold nothing."""
    return await rows.execute(
        "DELETE FROM sessions WHERE session IN (SELECT s.session FROM sessions s"
        " WHERE s.is_over = 1 AND s.alive_until <= ? AND NOT EXISTS"
        " (SELECT 1 FROM tasks t WHERE t.state = 2 AND t.session = s.session) LIMIT ?)",
        now - keep.longest,
        PIECE,
    )


async def remove_workers(rows: Rows, keep: Keep, *, now: float) -> int:
    """Remove workers of which nothing has been heard for as long and that have no session."""
    removed = await rows.execute(
        "DELETE FROM workers WHERE worker IN (SELECT worker FROM workers"
        " WHERE seen_at <= ? AND worker NOT IN (SELECT worker FROM sessions) LIMIT ?)",
        now - keep.longest,
        PIECE,
    )
    await rows.execute(
        "DELETE FROM worker_environments WHERE worker NOT IN (SELECT worker FROM workers)"
        " OR (state = 'failed' AND broken_until <= ?)",
        now - DAY,
    )
    return removed


async def remove_refreshes(rows: Rows, keep: Keep, *, now: float) -> int:
    """Remove refreshed locks that no task and no order has, of requests that nobody makes.

    As long as the request itself is known it has an older lock: without the newer one, new tasks
    would go back to that.
    """
    return await rows.execute(
        "DELETE FROM refreshes WHERE request IN (SELECT f.request FROM refreshes f"
        " WHERE f.refreshed_at <= ?"
        " AND f.request NOT IN (SELECT request FROM environment_orders)"
        " AND NOT EXISTS (SELECT 1 FROM environment_requests r"
        " WHERE r.text IN (f.request, 'lock ' || f.environment)) LIMIT ?)",
        now - keep.longest,
        PIECE,
    )
