"""How long ended tasks are kept: a pass over them finds what is due, and purges it.

A task's payloads go when they are due. Its row goes with them once its id is older than the
shortest retention: till then it is kept, so that nobody can take the id again and an id that is
absent and younger never was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from task_server.store.records.sql import Rows, execute_in, fetch_in, first
from task_server.store.states import Encoding, State

DAY = 86400.0
AGAIN_SECONDS = 600.0
"""How long an answer that is kept until it is read can be read again: a reply may be lost."""
PIECE = 5000
"""Ended tasks that one step of a pass looks at."""
_PURGED = int(Encoding.PURGED)
_SUCCEEDED = int(State.SUCCEEDED)
_LONGEST = 1e11


class Keep(Struct, frozen=True):
    """For how many seconds ended tasks are kept."""

    read: float = 7 * DAY
    """Answers, after the first read."""
    unread: float = 30 * DAY
    """Answers that nobody read."""
    failed: float = 30 * DAY
    """What ended without an answer."""

    @property
    def shortest(self) -> float:
        """How old an absent id is at least if there was a task of it."""
        return max(DAY, min(self.read, self.unread, self.failed))

    @property
    def longest(self) -> float:
        """How long whatever belongs to tasks is needed, if none says otherwise."""
        return max(DAY, self.read, self.unread, self.failed)


class Pass(Struct, frozen=True):
    """How far a pass over the ended tasks has come."""

    youngest: float
    """Nothing that ended later can be due."""
    server: int = 0
    n: int = 0


def oldest_id(moment: float) -> bytes:
    """The least id made at `moment` (Unix seconds)."""
    return int(moment * 1000).to_bytes(6, "big") + bytes(10)


async def begin_pass(rows: Rows, keep: Keep, *, now: float) -> Pass:
    """A pass from the first ended task on."""
    found = await rows.fetch(
        f"SELECT min(CASE WHEN keep < 0 THEN {AGAIN_SECONDS} ELSE keep END) FROM kinds"
        " WHERE keep IS NOT NULL"
    )
    own: float | None = found[0][0]
    seconds = [keep.read, keep.unread, keep.failed, *([] if own is None else [own])]
    return Pass(youngest=now - min(seconds))


async def find_due(
    rows: Rows, keep: Keep, at: Pass, *, now: float
) -> tuple[list[int], Pass | None]:
    """Numbers of due tasks in the next piece of a pass, and the pass behind it; None: its end."""
    server = await first(
        rows, "SELECT server FROM servers WHERE server >= ? ORDER BY server LIMIT 1", at.server
    )
    if server is None:
        return [], None
    start = at.n if server[0] == at.server else 0
    last = await first(
        rows,
        "SELECT n, ended_at FROM tasks WHERE server = ? AND n > ? ORDER BY n LIMIT 1 OFFSET ?",
        server[0],
        start,
        PIECE - 1,
    )
    is_last = last is None or last[1] > at.youngest
    due = await rows.fetch(
        "SELECT number FROM tasks JOIN kinds k USING (kind)"
        f" WHERE server = ? AND n > ? AND n <= ? AND {_may_go(keep, 'k.keep')}",
        server[0],
        start,
        2**62 if last is None else last[0],
        now,
        oldest_id(now - keep.shortest),
    )
    following = (server[0] + 1, 0) if last is None or is_last else (server[0], last[0])
    return [number for (number,) in due], Pass(at.youngest, *following)


def _may_go(keep: Keep, own: str) -> str:
    """Whether payloads are due at `?`, or are gone already and the id is older than `?`."""
    return (
        f"CASE WHEN encoding IS NULL OR encoding <> {_PURGED} THEN {_due_at(keep, own)} <= ?"
        " ELSE id < ? END"
    )


def _due_at(keep: Keep, own: str) -> str:
    """When a task's payloads go; `own` is the `keep` of its kind."""
    read, unread, failed = (
        min(seconds, _LONGEST) for seconds in (keep.read, keep.unread, keep.failed)
    )
    if_unread = f"ended_at + CASE state WHEN {_SUCCEEDED} THEN {unread} ELSE {failed} END"
    if_read = f"CASE state WHEN {_SUCCEEDED} THEN first_read + {read} END"
    return (
        f"CASE WHEN {own} IS NULL THEN coalesce({if_read}, {if_unread})"
        f" WHEN {own} < 0 THEN coalesce(first_read + {AGAIN_SECONDS}, {if_unread})"
        f" ELSE ended_at + {own} END"
    )


async def purge(rows: Rows, numbers: Sequence[int], keep: Keep, *, now: float, server: int) -> int:
    """T14: remove what is due of these tasks; how many that were."""
    ordered = sorted(numbers)
    bound = oldest_id(now - keep.shortest)
    # Only what is due still: meanwhile it may have been retried, and have ended again.
    due = f"{_NOT_AWAITED} AND {_may_go(keep, _OWN)}"
    gone = await fetch_in(
        rows,
        f"DELETE FROM tasks WHERE id < ? AND {due} AND number IN ({{keys}})"
        " RETURNING number, kind, batch, encoding",
        ordered,
        bound,
        now,
        bound,
    )
    emptied = await fetch_in(
        rows,
        f"UPDATE tasks SET encoding = {_PURGED}, payload = NULL, outcome = NULL, usage = NULL"
        f" WHERE (encoding IS NULL OR encoding <> {_PURGED}) AND {due} AND number IN ({{keys}})"
        " RETURNING number, batch",
        ordered,
        now,
        bound,
    )
    await _remove_parts(rows, [number for number, *_ in (*gone, *emptied)])
    await _count_gone(rows, gone, server=server)
    await _count_batches(rows, [batch for _, batch in emptied])
    return len(gone) + len(emptied)


_NOT_AWAITED = "NOT EXISTS (SELECT 1 FROM dependencies d WHERE d.after = tasks.number)"
"""Of many who waited for it some may not have heard of its end yet."""
_OWN = "(SELECT k.keep FROM kinds k WHERE k.kind = tasks.kind)"
_PARTS = ("payloads", "logs", "task_extras", "past_outcomes", "blob_uses")


async def _remove_parts(rows: Rows, numbers: Iterable[int]) -> None:
    """Everything that belongs to tasks and lies elsewhere."""
    listed = sorted(numbers)
    for table in _PARTS:
        await execute_in(rows, f"DELETE FROM {table} WHERE number IN ({{keys}})", listed)
    for table in ("past_attempts", "dependencies"):
        await execute_in(rows, f"DELETE FROM {table} WHERE task IN ({{keys}})", listed)


async def _count_gone(rows: Rows, gone: Sequence[tuple[Any, ...]], *, server: int) -> None:
    """Rows of tasks went: (number, kind, batch, encoding)."""
    for kind, count in Counter(kind for _, kind, _, _ in gone).items():
        await rows.execute(
            "INSERT INTO kind_load (kind, server, queued, stored) VALUES (?, ?, 0, ?)"
            " ON CONFLICT (kind, server) DO UPDATE SET stored = kind_load.stored + excluded.stored",
            kind,
            server,
            -count,
        )
    # Those whose payloads went before are counted in their batches already.
    await _count_batches(rows, [batch for *_, batch, encoding in gone if encoding != _PURGED])


async def _count_batches(rows: Rows, batches: Iterable[int | None]) -> None:
    counts = Counter(batch for batch in batches if batch is not None)
    for batch, count in sorted(counts.items()):
        await rows.execute("UPDATE batches SET purged = purged + ? WHERE batch = ?", count, batch)


# ---- reading, and deleting before the time


async def note_read(rows: Rows, numbers: Iterable[int], *, now: float) -> None:
    """The outcomes of these tasks have been given out."""
    await execute_in(
        rows,
        "UPDATE tasks SET first_read = ?"
        " WHERE first_read IS NULL AND n IS NOT NULL AND number IN ({keys})",
        sorted(numbers),
        now,
    )


async def delete(rows: Rows, identifier: bytes, owner: int | None, *, server: int) -> int:
    """T14 by the owner (None: an admin); the status to tell: 200, 404, or 409 for an open task."""
    row = await first(
        rows,
        "SELECT t.number, k.owner FROM tasks t JOIN kinds k USING (kind)"
        " WHERE t.id = ? AND (k.owner = ? OR ?)",
        identifier,
        owner,
        owner is None,
    )
    if row is None:
        return 200 if await _has_tombstone(rows, identifier, owner) else 404
    number, its_owner = row
    gone = await rows.fetch(
        f"DELETE FROM tasks WHERE number = ? AND state >= {_SUCCEEDED} AND {_NOT_AWAITED}"
        " RETURNING number, kind, batch, encoding",
        number,
    )
    if not gone:
        return 409
    await rows.execute(
        "INSERT INTO tombstones (id, owner) VALUES (?, ?) ON CONFLICT DO NOTHING",
        identifier,
        its_owner,
    )
    await _remove_parts(rows, [number])
    await _count_gone(rows, gone, server=server)
    return 200


async def is_gone(rows: Rows, identifier: bytes, owner: int | None) -> bool:
    """Whether this owner (None: anybody) had a task of that id: deleted, or no longer kept."""
    if await _has_tombstone(rows, identifier, owner):
        return True
    row = await first(
        rows,
        "SELECT 1 FROM tasks t JOIN kinds k USING (kind)"
        f" WHERE t.id = ? AND t.encoding = {_PURGED} AND (k.owner = ? OR ?)",
        identifier,
        owner,
        owner is None,
    )
    return row is not None


async def _has_tombstone(rows: Rows, identifier: bytes, owner: int | None) -> bool:
    row = await first(
        rows,
        "SELECT 1 FROM tombstones WHERE id = ? AND (owner = ? OR ?)",
        identifier,
        owner,
        owner is None,
    )
    return row is not None


async def deleted_owners(rows: Rows, identifiers: Iterable[bytes]) -> dict[bytes, int]:
    """Which of these ids belonged to tasks that were deleted, and whose they were."""
    return dict(
        await fetch_in(rows, "SELECT id, owner FROM tombstones WHERE id IN ({keys})", identifiers)
    )
