"""Commands about workers."""

from __future__ import annotations

import typer

from task_server.cli.output import Format, Output, rows_of, show_rows
from task_server.client import requests
from task_server.client.client import Client

app = typer.Typer(help="Workers.", no_args_is_help=True)


@app.callback()
def workers() -> None:
    """Workers."""


@app.command()
def ls(output: Output = Format.TABLE) -> None:
    """List the workers."""
    body = Client().session.send(requests.list_workers()).body
    show_rows(
        rows_of(body, "workers"), ("id", "name", "state", "slots", "running", "pythons"), output
    )
