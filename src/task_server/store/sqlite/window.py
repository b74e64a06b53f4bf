"""Reading the next tasks of lanes that are longer than their windows."""

from __future__ import annotations

import sqlite3
from itertools import islice
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


_LIKE = (
    "t.kind, length(t.payload), t.due_at, t.submitted_at, t.predicted, t.predicted_high, t.tie,"
    " ifnull(t.batch, 0), t.attempt, ifnull(x.crashes, 0)"
)
_LIKE_JSON = f"""json_array(
                 t.kind, length(t.payload), {_exact("t.due_at")}, {_exact("t.submitted_at")},
                 {_exact("t.predicted")}, {_exact("t.predicted_high")}, {_exact("t.tie")},
                 t.batch, t.attempt, ifnull(x.crashes, 0))"""


def _following(bound: str) -> str:
    """SQL for the next tasks of lane ?1 beyond the key ?2 ?3 ?4, at most ?5.

    All of them as one row: after each row the driver lets go of the interpreter, and beside a busy
    event loop it waits for it longer than the row takes. Numbers are JSON, bytes stand one behind
    the other: as hexadecimal text they took half as long again. Most came in one request with the
    first and are like it: of them a number is enough, which takes half the time of all columns.
    """
    waiting = f"""
          FROM tasks t LEFT JOIN task_extras x USING (number)
         WHERE t.state = 0 AND t.lane = ?1 AND {bound}
         ORDER BY t.due_at, t.tie, t.number"""
    return f"""
SELECT (SELECT {_LIKE_JSON} {waiting} LIMIT 1), group_concat(numbers),
       CAST(group_concat(id, '') AS BLOB), CAST(group_concat(payload, '') AS BLOB)
  FROM (SELECT t.id AS id, t.payload AS payload,
               iif(({_LIKE}) = (SELECT {_LIKE} {waiting} LIMIT 1),
                   iif(t.position IS NULL, t.number, json_array(t.number, t.position)),
                   json_array(t.number, t.position, {_LIKE_JSON})) AS numbers
          {waiting} LIMIT ?5)"""


# Apart, as SQLite finds the place of a key in an index only up to the number: of a batch of a
# million, whose members may have one key but for that, it would pass all those that are gone.
_FOLLOWING = (
    _following("t.due_at = ?2 AND t.tie = ?3 AND t.number > ?4"),
    _following("(t.due_at, t.tie) > (?2, ?3)"),
)


class _Like(msgspec.Struct, array_like=True, gc=False):
    """What tasks of one request have in common, times in units."""

    kind: int
    size: int | None
    due_at: float
    submitted_at: float
    predicted: float
    predicted_high: float
    tie: float
    batch: int | None
    attempt: int
    crashes: int

    def __post_init__(self) -> None:
        self.due_at *= UNIT
        self.submitted_at *= UNIT
        self.predicted *= UNIT
        self.predicted_high *= UNIT
        self.tie *= UNIT


class _Row(msgspec.Struct, array_like=True, gc=False):
    number: int
    position: int | None = None
    like: _Like | None = None
    """None: the first's."""


_decode_first = msgspec.json.Decoder(_Like).decode
_decode_rows = msgspec.json.Decoder(list[int | _Row]).decode


def read_window(
    connection: sqlite3.Connection, memory: Memory, lane: Lane[Queued], *, wanted: int = WINDOW
) -> None:
    """Add the next tasks of a lane to its window."""
    queued: list[Queued] = []
    for statement in _FOLLOWING:
        asked = (lane.number, *lane.window.bound, wanted - len(queued))
        found = connection.execute(statement, asked).fetchone()
        if found[0] is not None:
            queued += _read(memory, *found)
        if len(queued) == wanted:
            break
    queued.sort(key=attrgetter("due_at", "tie", "number"))  # an aggregate promises no order
    lane.window.refill(queued, wanted=wanted)


def _read(memory: Memory, common: str, numbers: str, ids: bytes, payloads: bytes) -> list[Queued]:
    first, queued, start = _decode_first(common), [], 0
    for index, row in enumerate(_decode_rows(f"[{numbers}]")):
        if isinstance(row, int):
            number, position, like = row, None, first
        else:
            number, position, like = row.number, row.position, row.like or first
        kind, size = memory.kind_numbered(like.kind), like.size
        queued.append(
            Queued(
                number,
                like.due_at,
                like.tie,
                like.crashes,
                like.predicted,
                LARGE_BYTES if size is None else size,
                memory.statistics_of(kind),
                ids[ID_BYTES * index : ID_BYTES * (index + 1)],
                kind,
                like.batch,
                position,
                like.submitted_at,
                like.predicted_high,
                like.attempt,
                None if size is None else payloads[start : start + size],
            )
        )
        start += size or 0
    return queued


def read_ahead(connection: sqlite3.Connection, memory: Memory) -> None:
    """Add to the first window that is half empty, so that the next lease finds its tasks there."""
    for number in islice(memory.active, LANES):
        lane = memory.lanes[number]
        window = lane.window
        left = len(window.entries)
        if lane.is_leasable and not window.is_complete and left <= WINDOW // 2:
            read_window(connection, memory, lane, wanted=WINDOW - left)
            return
