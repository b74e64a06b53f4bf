"""Statements over many rows.

A statement a row hands the interpreter's lock to and fro with the event loop: measured beside a
busy loop, 70 us a row against 7 us when 256 rows share one statement.

The driver looks for an adapter of each value that is bytes or None, and not of a bytearray: half
a microsecond each. The rows of the hot verbs have bytearrays, and no columns that are NULL in all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

_SIZES = (256, 64, 16, 4, 1)

Row = Sequence[object]


@lru_cache(maxsize=256)
def _statement(template: str, size: int, columns: int) -> str:
    row = "(" + ",".join("?" * columns) + ")"
    return template.replace("{rows}", ",".join([row] * size))


def _pieces(count: int) -> Iterator[tuple[int, int]]:
    start = 0
    for size in _SIZES:
        while count - start >= size:
            yield start, size
            start += size


def write_many(connection: sqlite3.Connection, template: str, rows: Sequence[Row]) -> int:
    """Run `template`, its `{rows}` standing for the values; gives the number of rows changed."""
    if not rows:
        return 0
    if len(rows) == 1:
        return connection.execute(_statement(template, 1, len(rows[0])), rows[0]).rowcount
    changed = 0
    for start, size in _pieces(len(rows)):
        piece = rows[start : start + size]
        values = tuple(chain.from_iterable(piece))
        cursor = connection.execute(_statement(template, size, len(piece[0])), values)
        changed += cursor.rowcount
    return changed


def select_in(
    connection: sqlite3.Connection, template: str, keys: Iterable[object]
) -> Iterator[tuple[Any, ...]]:
    """Rows of `template`, its `{rows}` standing for the keys of an IN list."""
    listed = [(key,) for key in keys]
    for start, size in _pieces(len(listed)):
        values = tuple(chain.from_iterable(listed[start : start + size]))
        yield from connection.execute(
            _statement(template, size, 1).replace("(?)", "?"), values
        ).fetchall()
