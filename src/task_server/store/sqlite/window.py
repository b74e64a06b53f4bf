"""Reading the next tasks of lanes that are longer than their windows."""

from __future__ import annotations

import sqlite3
from itertools import islice

from task_server.scheduling.lanes import WINDOW, Lane
from task_server.store.sqlite.memory import Memory, Queued

LANES = 64
"""How many are looked at for one to read ahead of."""

# In the order of `Queued`, which is made for each of thousands.
_NEXT = """
SELECT t.number, t.due_at, t.tie, ifnull(x.crashes, 0), t.predicted,
       ifnull(length(t.payload), 65536), t.kind, t.id, t.batch, t.position, t.submitted_at,
       t.predicted_high, t.attempt, t.payload
  FROM tasks t LEFT JOIN task_extras x USING (number)
 WHERE t.state = 0 AND t.lane = ? AND (t.due_at, t.tie, t.number) > (?, ?, ?)
 ORDER BY t.due_at, t.tie, t.number LIMIT ?"""


def read_window(
    connection: sqlite3.Connection, memory: Memory, lane: Lane[Queued], *, wanted: int = WINDOW
) -> None:
    """Add the next tasks of a lane to its window."""
    rows = connection.execute(_NEXT, (lane.number, *lane.window.bound, wanted)).fetchall()
    kinds = {number: memory.kind_numbered(number) for number in {row[6] for row in rows}}
    known = {number: memory.statistics_of(kind) for number, kind in kinds.items()}
    queued = [
        Queued(*row[:6], known[row[6]], row[7], kinds[row[6]], *row[8:])  # type: ignore[call-arg]
        for row in rows
    ]
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
