"""Batches, and what their members came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from task_server.store.kinds import Kind
from task_server.store.records.sql import Rows, first
from task_server.store.rows import AnswerRow, BatchRow
from task_server.store.states import Encoding, State

_KEPT = f"(t.encoding IS NULL OR t.encoding <> {int(Encoding.PURGED)})"
# The plus keeps the batch's index out: few tasks run, a batch may have a million.
_RUNNING = "SELECT count(*) FROM tasks WHERE state = 2 AND +batch = ?"
# One after the other: as a join SQLite passed all tasks of all batches to find the few delayed.
_IS_DELAYED = "(SELECT t.state = 1 AND t.batch = ? FROM tasks t WHERE t.number = x.number)"
_DELAYED = f"SELECT count(*) FROM task_extras x WHERE x.delayed_until IS NOT NULL AND {_IS_DELAYED}"
_PENDING = f"SELECT count(*) FROM task_extras x WHERE x.pending > 0 AND {_IS_DELAYED}"
_ANSWER = (
    "SELECT t.position, t.id, t.state, t.server, t.n, t.encoding, coalesce(t.outcome, p.data),"
    " t.number FROM tasks t"
    " LEFT JOIN payloads p ON p.number = t.number AND p.part = 1 AND t.encoding IS NOT NULL"
)


async def find(rows: Rows, identifier: bytes, owner: int | None) -> BatchRow | None:
    """The batch, if this owner (None: anybody) may see it."""
    row = await first(
        rows,
        "SELECT batch, id, owner, name, is_open, expected, total, succeeded, failed, cancelled,"
        " expired, purged, in_order FROM batch_progress WHERE id = ? AND (owner = ? OR ?)",
        identifier,
        owner,
        owner is None,
    )
    if row is None:
        return None
    found = BatchRow(*row)
    found.is_open, found.in_order = bool(found.is_open), bool(found.in_order)
    if found.ended < found.total:
        ((found.running,),) = await rows.fetch(_RUNNING, found.batch)
        ((found.delayed,),) = await rows.fetch(_DELAYED, found.batch)
        found.delayed += (await rows.fetch(_PENDING, found.batch))[0][0]
    return found


async def kinds(rows: Rows, batch: int) -> list[tuple[Kind, int]]:
    """How many open tasks of each kind a batch has."""
    found = await rows.fetch(
        "SELECT k.kind, k.function, k.lane, k.spec, c.count FROM kinds k JOIN"
        " (SELECT kind, count(*) AS count FROM tasks WHERE batch = ? AND state < 3 GROUP BY kind) c"
        " USING (kind)",
        batch,
    )
    return [(Kind.read(*row), count) for *row, count in found]


async def answers_in_order(rows: Rows, batch: int, start: int, limit: int) -> list[AnswerRow]:
    """Members of a batch that have ended, from position `start` on, by position."""
    found = await rows.fetch(
        f"{_ANSWER} WHERE t.batch = ? AND t.position >= ? AND t.n IS NOT NULL AND {_KEPT}"
        " ORDER BY t.position LIMIT ?",
        batch,
        start,
        limit,
    )
    return [_answer(row) for row in found]


async def answers_as_ended(
    rows: Rows, batch: int, after: Mapping[int, int], limit: int
) -> list[AnswerRow]:
    """Members of a batch that ended after these places, server by server, in the order of ends.

    `after`: server -> place; a server that is not in it is read from its first on. Fewer than
    `limit` rows: there are no more.
    """
    servers = await rows.fetch("SELECT server FROM servers ORDER BY server")
    found: list[AnswerRow] = []
    for (server,) in servers:
        some = await rows.fetch(
            f"{_ANSWER} WHERE t.batch = ? AND t.server = ? AND t.n > ? AND {_KEPT}"
            " ORDER BY t.n LIMIT ?",
            batch,
            server,
            after.get(server, 0),
            limit - len(found),
        )
        found += [_answer(row) for row in some]
        if len(found) == limit:
            break
    return found


async def next_position(rows: Rows, batch: int, start: int) -> int | None:
    """The first position from `start` on whose task is there still, ended or not."""
    row = await first(
        rows,
        f"SELECT t.position FROM tasks t WHERE t.batch = ? AND t.position >= ? AND {_KEPT}"
        " ORDER BY t.position LIMIT 1",
        batch,
        start,
    )
    return None if row is None else int(row[0])


def _answer(row: tuple[Any, ...]) -> AnswerRow:
    position, identifier, state, server, n, encoding, outcome, number = row
    known = None if encoding is None else Encoding(encoding)
    return AnswerRow(position, identifier, State(state), server, n, known, outcome, number)
