"""Whose blobs are whose, what needs them, and how those that nothing needs go.

A blob is needed by the tasks that `blob_uses` names, by the kinds whose function it holds, by the
uploaded wheels, and for a while after it was stored or named. Its rows go first, in the transaction
that finds it unneeded and notes that its content is to be deleted. While that is under way nobody
may count on content that was stored meanwhile: who has stored it is told to do so again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from task_server.errors import Unavailable
from task_server.store.records.sql import Rows, execute_in, fetch_in, first

RENEW_SECONDS = 60.0
"""A blob that a submit names becomes young again, unless it is younger than this."""
_IS_NEEDED = (
    "EXISTS (SELECT 1 FROM blob_uses u WHERE u.digest = {name})"
    " OR EXISTS (SELECT 1 FROM kinds k WHERE k.pickle = {name})"
    " OR EXISTS (SELECT 1 FROM packages p WHERE p.digest = {name})"
)


async def keep(
    rows: Rows, name: str, owner: int, *, size: int, now: float, began: float | None = None
) -> None:
    """An owner has a blob, whose content was stored since `began` (None: `now`).

    Raises Unavailable when that content may have been deleted again.
    """
    await check_kept(rows, [name], began=now if began is None else began)
    await rows.execute(
        "INSERT INTO blobs (digest, owner, size, created_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (digest, owner) DO UPDATE SET created_at = excluded.created_at",
        name,
        owner,
        size,
        now,
    )


async def check_kept(rows: Rows, names: Iterable[str], *, began: float) -> None:
    """Raise Unavailable when content stored since `began` may have been deleted."""
    found = await fetch_in(
        rows,
        "SELECT digest FROM blob_deletions WHERE (is_done = 0 OR at >= ?) AND digest IN ({keys})",
        names,
        began,
    )
    if found:
        raise Unavailable(
            f"blob {found[0][0]} is being deleted, as nothing needed it; send it again",
            retry_after=1.0,
        )


async def has(rows: Rows, name: str, owner: int) -> bool:
    """Whether an owner has a blob."""
    row = await first(rows, "SELECT 1 FROM blobs WHERE digest = ? AND owner = ?", name, owner)
    return row is not None


async def known(rows: Rows, names: Iterable[str]) -> set[str]:
    """Which of these blobs are there, whoever has them."""
    found = await fetch_in(
        rows, "SELECT DISTINCT digest FROM blobs WHERE digest IN ({keys})", sorted(names)
    )
    return {name for (name,) in found}


async def known_to(rows: Rows, names: Iterable[str], owner: int) -> set[str]:
    """Which of these blobs are an owner's, or of a worker's answer (owner 0)."""
    found = await fetch_in(
        rows,
        "SELECT DISTINCT digest FROM blobs WHERE owner IN (0, ?) AND digest IN ({keys})",
        sorted(names),
        owner,
    )
    return {name for (name,) in found}


async def renew(rows: Rows, names: Iterable[str], *, now: float) -> None:
    """Blobs were named: they are kept for a while from now on, needed or not."""
    await execute_in(
        rows,
        "UPDATE blobs SET created_at = ? WHERE created_at < ? AND digest IN ({keys})",
        sorted(names),
        now,
        now - RENEW_SECONDS,
    )


async def use(rows: Rows, names: Iterable[str], number: int) -> None:
    """A task needs blobs as long as it is kept."""
    for name in names:
        await rows.execute(
            "INSERT INTO blob_uses (digest, number) VALUES (?, ?) ON CONFLICT DO NOTHING",
            name,
            number,
        )


async def total_bytes(rows: Rows) -> int:
    """Size of all blobs, each counted once."""
    found = await rows.fetch(
        "SELECT coalesce(sum(size), 0) FROM"
        " (SELECT max(size) AS size FROM blobs GROUP BY digest) AS each_blob"
    )
    return int(found[0][0])


# ---- those that nothing needs


async def unneeded(rows: Rows, start: str, end: str, *, before: float) -> list[str]:
    """Blobs with names from `start` up to `end` that an owner has not named since `before`."""
    found = await rows.fetch(
        "SELECT DISTINCT b.digest FROM blobs b WHERE b.digest >= ? AND b.digest < ?"
        f" AND b.created_at <= ? AND NOT ({_IS_NEEDED.format(name='b.digest')})",
        start,
        end,
        before,
    )
    return [name for (name,) in found]


async def retire(rows: Rows, names: Iterable[str], *, before: float, now: float) -> None:
    """Forget who has those of these blobs that nothing needs still and that are old still.

    The content of those that nobody has then is to be deleted.
    """
    gone = await fetch_in(
        rows,
        "DELETE FROM blobs WHERE created_at <= ?"
        f" AND NOT ({_IS_NEEDED.format(name='blobs.digest')}) AND digest IN ({{keys}})"
        " RETURNING digest",
        sorted(names),
        before,
    )
    await begin_deletion(rows, {name for (name,) in gone}, now=now)


async def begin_deletion(rows: Rows, names: Iterable[str], *, now: float) -> None:
    """The content of those of these blobs that nobody has is to be deleted."""
    for name in sorted(names):
        await rows.execute(
            "INSERT INTO blob_deletions (digest, is_done, at)"
            " SELECT CAST(? AS text), 0, CAST(? AS double precision)"
            " WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE digest = ?)"
            " ON CONFLICT (digest) DO UPDATE SET is_done = 0, at = excluded.at",
            name,
            now,
            name,
        )


async def deletable(rows: Rows, *, before: float) -> list[str]:
    """Content to delete now, of which that was decided until `before`.

    What somebody has nevertheless is taken off the list: two transactions did not see each other.
    """
    await rows.execute(
        "DELETE FROM blob_deletions WHERE is_done = 0 AND at <= ?"
        " AND EXISTS (SELECT 1 FROM blobs b WHERE b.digest = blob_deletions.digest)",
        before,
    )
    found = await rows.fetch(
        "SELECT digest FROM blob_deletions WHERE is_done = 0 AND at <= ? ORDER BY at LIMIT 100",
        before,
    )
    return [name for (name,) in found]


async def end_deletion(rows: Rows, names: Collection[str], *, at: float) -> None:
    """The content of these is deleted, since `at` at the latest."""
    await execute_in(
        rows,
        "UPDATE blob_deletions SET is_done = 1, at = ? WHERE digest IN ({keys})",
        sorted(names),
        at,
    )


async def forget_deletions(rows: Rows, *, before: float) -> None:
    """Deletions that were done before any upload of now began are of no more interest."""
    await rows.execute("DELETE FROM blob_deletions WHERE is_done = 1 AND at <= ?", before)
