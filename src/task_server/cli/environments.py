"""Commands about environments."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from task_server.cli.output import Format, Output, show_one
from task_server.client import requests
from task_server.client.client import Client

app = typer.Typer(help="Environments that workers build.", no_args_is_help=True)


@app.callback()
def environments() -> None:
    """Environments that workers build."""


@app.command()
def show(
    digest: Annotated[str, typer.Argument(metavar="DIGEST", help="As `status` shows it.")],
    output: Output = Format.TABLE,
) -> None:
    """Show what is in an environment and where it is ready."""
    body = Client().session.send(requests.read_environment(digest)).body
    show_one(msgspec.json.decode(body, type=dict[str, object]), output)
