"""Whose blobs are whose."""

from __future__ import annotations

from task_server.store.records.sql import Rows, first


async def keep(rows: Rows, name: str, owner: int, *, size: int, now: float) -> None:
    """An owner has a blob."""
    await rows.execute(
        "INSERT INTO blobs (digest, owner, size, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        name,
        owner,
        size,
        now,
    )


async def has(rows: Rows, name: str, owner: int) -> bool:
    """Whether an owner has a blob."""
    row = await first(rows, "SELECT 1 FROM blobs WHERE digest = ? AND owner = ?", name, owner)
    return row is not None
