"""Commands about wheels of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from task_server.cli.output import Format, Output, note, rows_of, show_rows
from task_server.client import requests
from task_server.client.client import Client

app = typer.Typer(help="Packages of your own, for your tasks.", no_args_is_help=True)


@app.callback()
def packages() -> None:
    """Packages of your own, for your tasks."""


@app.command()
def upload(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH...", help="Wheels, or folders of projects to build."),
    ],
) -> None:
    """Upload wheels; prints what to name as package, one a line."""
    client = Client()
    for path in paths:
        print(client.upload(path), flush=True)


@app.command()
def ls(output: Output = Format.TABLE) -> None:
    """List the wheels that you have uploaded."""
    body = Client().session.send(requests.list_packages()).body
    columns = ("name", "version", "filename", "size", "uploaded_at")
    show_rows(rows_of(body, "packages"), columns, output)


@app.command()
def rm(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The package.")],
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="One version of it; else all.")
    ] = None,
) -> None:
    """Remove a package, or one version of it; locks that name it can no longer be installed."""
    Client().session.send(requests.remove_package(name, version))
    note(f"removed {name}" if version is None else f"removed {name} {version}")
