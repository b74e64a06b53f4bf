"""Reading the next tasks of lanes that are longer than their windows."""

from __future__ import annotations

import sqlite3
from itertools import accumulate, islice
from operator import attrgetter

import msgspec

from task_server.scheduling.lanes import WINDOW, Lane
from task_server.store.sqlite.memory import Memory, Queued

LANES = 64
"""How many are looked at for one to read ahead of."""
LARGE_BYTES = 65536
"""What a task adds to a reply at most whose arguments do not lie in its row."""

UNIT = 2.0**-22
"""Unix times are whole numbers of it, which are written and read in a third of the time."""
ID_BYTES = 16


def _exact(column: str) -> str:
    """SQL for a float in units, as JSON: SQLite alone writes 15 digits of what is not whole."""
    units = f"{column} / {UNIT!r}"
    whole = f"CAST({units} AS INTEGER)"
    return f"iif({whole} = {units}, {whole}, json(printf('%!.17g', {units})))"


# All of them as one row: after each row the driver lets go of the interpreter, and beside a busy
# event loop it waits for it longer than the row takes. Numbers are JSON, bytes stand one behind the
# other: as hexadecimal text they took half as long again.
_NEXT = f"""
SELECT group_concat(numbers), CAST(group_concat(id, '') AS BLOB),
       CAST(group_concat(payload, '') AS BLOB)
  FROM (SELECT t.id AS id, t.payload AS payload,
               json_array(
                 t.number, {_exact("t.due_at")}, {_exact("t.tie")}, ifnull(x.crashes, 0),
                 {_exact("t.predicted")}, length(t.payload), t.kind, t.batch, t.position,
                 {_exact("t.submitted_at")}, {_exact("t.predicted_high")}, t.attempt) AS numbers
          FROM tasks t LEFT JOIN task_extras x USING (number)
         WHERE t.state = 0 AND t.lane = ? AND (t.due_at, t.tie, t.number) > (?, ?, ?)
         ORDER BY t.due_at, t.tie, t.number LIMIT ?)"""

_Numbers = tuple[
    int, float, float, int, float, int | None, int, int | None, int | None, float, float, int
]
_decode = msgspec.json.Decoder(list[_Numbers]).decode


def read_window(
    connection: sqlite3.Connection, memory: Memory, lane: Lane[Queued], *, wanted: int = WINDOW
) -> None:
    """Add the next tasks of a lane to its window."""
    found = connection.execute(_NEXT, (lane.number, *lane.window.bound, wanted)).fetchone()
    queued = _read(memory, *found) if found[0] is not None else []
    queued.sort(key=attrgetter("due_at", "tie", "number"))  # an aggregate promises no order
    lane.window.refill(queued, wanted=wanted)


def _read(memory: Memory, numbers: str, ids: bytes, payloads: bytes) -> list[Queued]:
    rows = _decode(f"[{numbers}]")
    kinds = {number: memory.kind_numbered(number) for number in {row[6] for row in rows}}
    known = {number: memory.statistics_of(kind) for number, kind in kinds.items()}
    id_starts = range(0, len(ids), ID_BYTES)
    starts = accumulate([row[5] or 0 for row in rows], initial=0)
    return [
        Queued(
            number,
            due_at * UNIT,
            tie * UNIT,
            crashes,
            predicted * UNIT,
            LARGE_BYTES if size is None else size,
            known[kind],
            ids[id_start : id_start + ID_BYTES],
            kinds[kind],
            batch,
            position,
            submitted_at * UNIT,
            predicted_high * UNIT,
            attempt,
            None if size is None else payloads[start : start + size],
        )
        for (
            number,
            due_at,
            tie,
            crashes,
            predicted,
            size,
            kind,
            batch,
            position,
            submitted_at,
            predicted_high,
            attempt,
        ), id_start, start in zip(rows, id_starts, starts, strict=False)
    ]


def read_ahead(connection: sqlite3.Connection, memory: Memory) -> None:
    """Add to the first window that is half empty, so that the next lease finds its tasks there."""
    for number in islice(memory.active, LANES):
        lane = memory.lanes[number]
        window = lane.window
        left = len(window.entries)
        if lane.is_leasable and not window.is_complete and left <= WINDOW // 2:
            read_window(connection, memory, lane, wanted=WINDOW - left)
            return
