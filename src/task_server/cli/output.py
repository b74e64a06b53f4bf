"""Answers on stdout: tables for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 250
"""Columns of a table that no terminal shows."""


class Format(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    NDJSON = "ndjson"


Output = Annotated[Format, typer.Option("-o", "--output", help="Form of the output.")]

_FOLDED = ("found", "hint", "log")
"""Columns that may take several lines, so that the others are not cut."""

Row = Mapping[str, Any]


def show_rows(rows: Sequence[Row], columns: Sequence[str], form: Format) -> None:
    """Show a list; a table has `columns` only, the other forms have all."""
    if form is Format.JSON:
        print(_pretty(rows))
    elif form is Format.NDJSON:
        for row in rows:
            print(_line(row))
    else:
        _console().print(_table(rows, columns))


def show_one(row: Row, form: Format) -> None:
    """Show one thing; a table has a line for each field that is known."""
    if form is Format.JSON:
        print(_pretty(row))
    elif form is Format.NDJSON:
        print(_line(row))
    else:
        lines = Table(box=None, show_header=False, pad_edge=False)
        for name, value in row.items():
            if value is not None:
                lines.add_row(name, Text(_cell(value)))
        _console().print(lines)


def note(text: str) -> None:
    """A line on stderr, beside the output."""
    print(text, file=sys.stderr, flush=True)


def as_row(value: object) -> dict[str, Any]:
    """A Struct as what JSON makes of it."""
    return msgspec.json.decode(msgspec.json.encode(value), type=dict[str, Any])


def rows_of(body: bytes, name: str) -> list[dict[str, Any]]:
    """The list called `name` in a reply."""
    reply = msgspec.json.decode(body)
    found = reply.get(name, []) if isinstance(reply, dict) else reply
    return [row for row in found if isinstance(row, dict)]


def _table(rows: Sequence[Row], columns: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=column not in _FOLDED)
    for row in rows:
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    return table


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else _line(value)


def _line(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _pretty(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def _console() -> Console:
    return Console() if sys.stdout.isatty() else Console(width=_WIDE)
