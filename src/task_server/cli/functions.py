"""Commands about functions and what is known of them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from task_server.cli.changes import changes, dependences
from task_server.cli.output import Format, Output, note, rows_of, show_one, show_rows
from task_server.client import requests
from task_server.client.client import Client

app = typer.Typer(help="Functions and how long they take.", no_args_is_help=True)
_COLUMNS = ("function", "package", "calls", "failures", "p50", "p90")
_JUDGED = ("function", "calls", "error_factor", "bias_factor", "at_most_p50", "at_most_p90")


@app.command()
def ls(output: Output = Format.TABLE) -> None:
    """List the functions that were called."""
    body = Client().session.send(requests.list_functions()).body
    rows = rows_of(body, "functions")
    if output is Format.TABLE:
        rows = [{**row, **row.get("run_seconds", {})} for row in rows]
    show_rows(rows, _COLUMNS, output)


@app.command()
def show(
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="module:qualname.")],
    output: Output = Format.TABLE,
) -> None:
    """Show what is known of one function, and why it takes as long as it does."""
    body = Client().session.send(requests.read_function(function)).body
    told = msgspec.json.decode(body, type=dict[str, Any])
    if output is not Format.TABLE:
        show_one(told, output)
        return
    stays, scaling = told.pop("environments", []), told.pop("scaling", None) or []
    show_one(told, output)
    for line in [*changes(stays), *dependences(scaling)]:
        print(line)


@app.command()
def accuracy(
    function: Annotated[
        str | None, typer.Argument(metavar="[FUNCTION]", help="module:qualname; else all.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Show how far off the estimates were, of all functions or in detail of one."""
    session = Client().session
    if function is None:
        rows = rows_of(session.send(requests.list_functions()).body, "functions")
        told = [{"function": row["function"], **row.get("accuracy", {})} for row in rows]
        show_rows([row for row in told if row.get("calls")], _JUDGED, output)
        return
    body = session.send(requests.read_accuracy(function)).body
    whole = msgspec.json.decode(body, type=dict[str, Any])
    if output is not Format.TABLE:
        show_one(whole, output)
        return
    parts = [{"function": name, **whole[name]} for name in ("all", "recent")]
    show_rows(parts, _JUDGED, output)
    totals = whole["batches"]
    if totals["batches"]:
        print(
            f"totals of {totals['batches']:,} batches: off by a factor of"
            f" {totals['error_factor']:.2g}, {totals['within']:.0%} within their 80 % interval"
        )
    note(f"{whole['guessed']} more calls had a guess before anything of the function was known")
