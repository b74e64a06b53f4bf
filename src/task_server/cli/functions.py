"""Commands about functions and what is known of them."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from task_server.cli.output import Format, Output, rows_of, show_one, show_rows
from task_server.client import requests
from task_server.client.client import Client

app = typer.Typer(help="Functions and how long they take.", no_args_is_help=True)
_COLUMNS = ("function", "package", "calls", "failures", "p50", "p90")


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
    """Show the statistics of one function."""
    body = Client().session.send(requests.read_function(function)).body
    show_one(msgspec.json.decode(body, type=dict[str, object]), output)
