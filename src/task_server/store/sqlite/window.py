"""Reading the next tasks of lanes that are longer than their windows."""

from __future__ import annotations

import sqlite3
from itertools import islice
from operator import attrgetter
from typing import Any

import msgspec

from task_server.scheduling.lanes import WINDOW, Lane
from task_server.store.sqlite.memory import Memory, Queued

LANES = 64
"""How many are looked at for one to read ahead of."""

# All of them as one value: after each row the driver lets go of the interpreter, and beside a busy
# event loop it waits for it longer than the row takes. JSON has no bytes, and of a float SQLite
# writes 15 digits there: enough for estimates, not for keys.
_NEXT = """
SELECT json_group_array(json_array(
         number, json(printf('%!.17g', due_at)), json(printf('%!.17g', tie)), crashes,
         predicted, size, kind, hex(id), batch, position,
         json(printf('%!.17g', submitted_at)), predicted_high, attempt,
         CASE WHEN payload IS NULL THEN NULL ELSE hex(payload) END))
  FROM (SELECT t.number, t.due_at, t.tie, ifnull(x.crashes, 0) AS crashes, t.predicted,
               ifnull(length(t.payload), 65536) AS size, t.kind, t.id, t.batch, t.position,
               t.submitted_at, t.predicted_high, t.attempt, t.payload
          FROM tasks t LEFT JOIN task_extras x USING (number)
         WHERE t.state = 0 AND t.lane = ? AND (t.due_at, t.tie, t.number) > (?, ?, ?)
         ORDER BY t.due_at, t.tie, t.number LIMIT ?)"""


_decode = msgspec.json.Decoder(list[tuple[Any, ...]]).decode  # in the order of `Queued`


def read_window(
    connection: sqlite3.Connection, memory: Memory, lane: Lane[Queued], *, wanted: int = WINDOW
) -> None:
    """Add the next tasks of a lane to its window."""
    (text,) = connection.execute(_NEXT, (lane.number, *lane.window.bound, wanted)).fetchone()
    rows = _decode(text)
    kinds = {number: memory.kind_numbered(number) for number in {row[6] for row in rows}}
    known = {number: memory.statistics_of(kind) for number, kind in kinds.items()}
    queued = [
        Queued(  # type: ignore[call-arg]
            *row[:6],
            known[row[6]],
            bytes.fromhex(row[7]),
            kinds[row[6]],
            *row[8:13],
            None if row[13] is None else bytes.fromhex(row[13]),
        )
        for row in rows
    ]
    queued.sort(key=attrgetter("due_at", "tie", "number"))  # an aggregate promises no order
    lane.window.refill(queued, wanted=wanted)


def read_ahead(connection: sqlite3.Connection, memory: Memory) -> None:
    """Add to the first window that is half empty, so that the next lease finds its tasks there."""
    for number in islice(memory.active, LANES):
        lane = memory.lanes[number]
        window = lane.window
        left = len(window.entries)
        if lane.is_leasable and not window.is_complete and left <= WINDOW // 2:
            read_window(connection, memory, lane, wanted=WINDOW - left)
            return
