"""Calls that have not ended, with all that tells how long they take."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from msgspec import Struct

from task_server.store.kinds import KindSpec
from task_server.store.records.learning import ARGUMENTS_BYTES, read_spec
from task_server.store.records.sql import Rows, fetch_in

_COLUMNS = (
    "t.number, t.kind, k.function, k.spec, t.attempt, t.started_at, t.predicted, t.predicted_high,"
    " coalesce(t.payload,"
    f" CASE WHEN length(a.data) <= {ARGUMENTS_BYTES} THEN a.data END),"
    " coalesce(length(t.payload), length(a.data)), f.data, r.environment"
)
_FROM = (
    " FROM tasks t JOIN kinds k USING (kind) JOIN lanes l ON l.lane = t.lane"
    " JOIN environment_requests r USING (request)"
    " LEFT JOIN payloads a ON a.number = t.number AND a.part = 0 AND t.payload IS NULL"
    " LEFT JOIN payloads f ON f.number = t.number AND f.part = 2"
)
_OPEN = f"SELECT {_COLUMNS}{_FROM}"


class OpenCall(Struct, frozen=True):
    """A task that waits or runs."""

    number: int
    kind: int
    function: int
    spec: KindSpec
    attempt: int
    started_at: float | None
    """Of the last attempt; None: there was none."""
    predicted: float
    """As stored: seconds, negative for a guess."""
    predicted_high: float
    payload: bytes | None
    """The arguments; None: too large."""
    size: int
    """Bytes of the arguments."""
    features: bytes | None
    environment: str | None


FIRST = (float("-inf"), 0.0, 0)
"""Before the key of any waiting task."""


class WaitingCall(Struct, frozen=True):
    """A task that waits, and its place in its lane."""

    call: OpenCall
    key: tuple[float, float, int]
    """due_at, tie, number."""


async def waiting_in(
    rows: Rows, lane: int, after: tuple[float, float, int], limit: int
) -> list[WaitingCall]:
    """The next waiting tasks of a lane, in their order, beyond a key."""
    due_at, tie, number = after
    # Apart: SQLite finds a key by index only up to the number, and a batch may have one key.
    found = await _waiting(
        rows, lane, "t.due_at = ? AND t.tie = ? AND t.number > ?", (due_at, tie, number), limit
    )
    if len(found) < limit:
        found += await _waiting(
            rows, lane, "(t.due_at, t.tie) > (?, ?)", (due_at, tie), limit - len(found)
        )
    return [WaitingCall(_call(*row), (due_at, tie, row[0])) for *row, due_at, tie in found]


async def _waiting(
    rows: Rows, lane: int, where: str, values: tuple[float, ...], limit: int
) -> list[tuple[Any, ...]]:
    return await rows.fetch(
        f"SELECT {_COLUMNS}, t.due_at, t.tie {_FROM} WHERE t.state = 0 AND t.lane = ? AND {where}"
        " ORDER BY t.due_at, t.tie, t.number LIMIT ?",
        lane,
        *values,
        limit,
    )


async def waiting_at(rows: Rows, batch: int, positions: Collection[int]) -> list[OpenCall]:
    """Of these members of a batch those that wait, by position."""
    return await _read(
        rows,
        f"{_OPEN} WHERE t.batch = ? AND t.state < 2 AND t.position IN ({{keys}})",
        sorted(positions),
        batch,
    )


async def running_of(rows: Rows, batch: int) -> list[OpenCall]:
    """The members of a batch that run."""
    # The plus keeps the batch's index out: few tasks run, a batch may have a million.
    found = await rows.fetch(f"{_OPEN} WHERE t.state = 2 AND +t.batch = ?", batch)
    return [_call(*row) for row in found]


async def _read(rows: Rows, sql: str, keys: Collection[int], *values: object) -> list[OpenCall]:
    return [_call(*row) for row in await fetch_in(rows, sql, keys, *values)]


def _call(*row: Any) -> OpenCall:
    values = list(row)
    values[3] = read_spec(values[3])
    values[9] = values[9] or 0
    return OpenCall(*values)
