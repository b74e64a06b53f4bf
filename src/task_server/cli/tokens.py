"""Commands about tokens. They write to the database, with or without a running server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from task_server.cli.output import Format, Output, as_row, note, show_rows
from task_server.machine import state_directory
from task_server.settings import database_url_in

app = typer.Typer(help="Tokens of users, workers and admins.", no_args_is_help=True)

Data = Annotated[
    Path | None, typer.Option(envvar="TASK_SERVER_DATA", help="The server's data directory.")
]
Database = Annotated[
    str | None, typer.Option(envvar="TASK_SERVER_DATABASE", help="The server's database.")
]


class Kind(StrEnum):
    """Who a token is for."""

    USER = "user"
    WORKER = "worker"
    ADMIN = "admin"


@app.command()
def create(
    kind: Annotated[Kind, typer.Option(help="Who it is for.")],
    name: Annotated[str, typer.Option(help="A name, for the list.")] = "",
    data: Data = None,
    database: Database = None,
) -> None:
    """Make a token and print it: it is shown this once."""
    from task_server.server.administration import create_token
    from task_server.store.opening import shown

    url = _url(data, database)
    print(create_token(url, kind=kind.value, name=name))
    note(f"a {kind.value} token for the servers of {shown(url)}")


@app.command()
def ls(data: Data = None, database: Database = None, output: Output = Format.TABLE) -> None:
    """List the tokens, without their secrets."""
    from task_server.server.administration import list_tokens

    rows = [as_row(row) for row in list_tokens(_url(data, database))]
    show_rows(rows, ("id", "kind", "name", "created_at", "revoked_at"), output)


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `token ls` shows it.")],
    data: Data = None,
    database: Database = None,
) -> None:
    """Revoke a token; servers refuse it within a second."""
    from task_server.server.administration import revoke_token

    revoke_token(_url(data, database), id)


def _url(data: Path | None, database: str | None) -> str:
    return database or database_url_in(data or state_directory())
