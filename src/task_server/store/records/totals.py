"""What was said that batches would cost, and what they took: of the newest of each function."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from task_server.store.attempts import Used
from task_server.store.records.sql import Rows
from task_server.store.states import State

KEPT = 1000
"""Batches of a function."""
TASKS_A_READ = 1000
"""That are added up."""
MAXIMUM_TASKS = 20_000
"""Adding up more would be a long read: they are not judged."""
GUESSED = 1e300
"""Seconds told where nothing was known: no sum with it is judged."""


class ToldTotal(Struct, frozen=True):
    """What one request was told that its tasks would cost, of one function."""

    function: int
    batch: bytes
    """Id."""
    low: float
    predicted: float
    high: float


class OpenTotal(Struct, frozen=True):
    """A batch that is done and not judged yet."""

    function: int
    batch: int
    total: int
    is_whole: bool
    """All its tasks have succeeded, and are there still."""


class JudgedTotal(Struct, frozen=True):
    """What was said, and what it took."""

    low: float
    predicted: float
    high: float
    seconds: float


async def note(rows: Rows, told: Sequence[ToldTotal]) -> None:
    """Keep what was said. Parts of a batch add up; quantiles do not, so its bounds are wide."""
    for each in told:
        await rows.execute(
            "INSERT INTO batch_totals (function, batch, low, predicted, high)"
            " SELECT CAST(? AS integer), batch, CAST(? AS double precision),"
            " CAST(? AS double precision), CAST(? AS double precision) FROM batches WHERE id = ?"
            " ON CONFLICT (function, batch) DO UPDATE SET low = batch_totals.low + excluded.low,"
            " predicted = batch_totals.predicted + excluded.predicted,"
            " high = batch_totals.high + excluded.high",
            each.function,
            each.low,
            each.predicted,
            each.high,
            each.batch,
        )


async def done(rows: Rows, limit: int) -> list[OpenTotal]:
    """Some batches that are done, or gone, and were not added up."""
    found = await rows.fetch(
        "SELECT e.function, e.batch, coalesce(p.total, 0), p.total = p.succeeded AND p.purged = 0"
        f" AND e.predicted < {GUESSED / 2!r} AND"
        " (SELECT count(*) FROM batch_totals o WHERE o.batch = e.batch) = 1"
        " FROM batch_totals e LEFT JOIN batch_progress p ON p.batch = e.batch"
        " WHERE e.seconds IS NULL AND (p.batch IS NULL OR p.is_open = 0"
        " AND p.succeeded + p.failed + p.cancelled + p.expired >= p.total) LIMIT ?",
        limit,
    )
    return [
        OpenTotal(function, batch, total, bool(is_whole) and total <= MAXIMUM_TASKS)
        for function, batch, total, is_whole in found
    ]


async def add_up(rows: Rows, batch: int, start: int) -> float:
    """Run seconds of a batch's tasks, TASKS_A_READ of them from position `start` on."""
    found = await rows.fetch(
        "SELECT usage FROM tasks WHERE batch = ? AND position >= ? AND position < ?"
        f" AND state = {int(State.SUCCEEDED)} AND usage IS NOT NULL",
        batch,
        start,
        start + TASKS_A_READ,
    )
    return sum(msgspec.msgpack.decode(usage, type=Used).run_seconds for (usage,) in found)


async def judge(rows: Rows, total: OpenTotal, seconds: float | None) -> None:
    """Keep what a batch took; None: that tells nothing of what was said. The oldest go."""
    if seconds is None:
        await rows.execute(
            "DELETE FROM batch_totals WHERE function = ? AND batch = ?", total.function, total.batch
        )
        return
    await rows.execute(
        # Another server may have been faster: it has added up the same.
        "UPDATE batch_totals SET seconds = ? WHERE function = ? AND batch = ? AND seconds IS NULL",
        seconds,
        total.function,
        total.batch,
    )
    await rows.execute(
        "DELETE FROM batch_totals WHERE function = ? AND batch <="
        " (SELECT batch FROM batch_totals WHERE function = ? ORDER BY batch DESC LIMIT 1 OFFSET ?)",
        total.function,
        total.function,
        KEPT,
    )


async def of_function(rows: Rows, function: int) -> list[JudgedTotal]:
    """Those of a function that were judged, the newest first."""
    found = await rows.fetch(
        "SELECT low, predicted, high, seconds FROM batch_totals"
        " WHERE function = ? AND seconds IS NOT NULL ORDER BY batch DESC",
        function,
    )
    return [JudgedTotal(*row) for row in found]
