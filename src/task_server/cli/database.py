"""Commands about the database itself, beside its server or without any."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from task_server.cli.output import Format, Output, as_row, note, show_one, show_rows
from task_server.machine import state_directory
from task_server.settings import database_url_in

app = typer.Typer(help="Upgrade, check and back up the database.", no_args_is_help=True)

Data = Annotated[
    Path | None, typer.Option(envvar="TASK_SERVER_DATA", help="The server's data directory.")
]
Database = Annotated[
    str | None, typer.Option(envvar="TASK_SERVER_DATABASE", help="The server's database.")
]

Blobs = Annotated[
    str | None, typer.Option(envvar="TASK_SERVER_BLOBS", help="The server's large payloads.")
]


@app.command()
def upgrade(data: Data = None, database: Database = None) -> None:
    """Bring the tables to the version that this program needs, as a server does that starts."""
    from task_server.store.maintenance import upgrade as run

    found = run(_url(data, database))
    if found.before == found.after:
        print(f"version {found.after}: nothing to do")
    elif found.before == 0:
        print(f"new database of version {found.after}")
    else:
        print(f"upgraded from version {found.before} to {found.after}")


@app.command()
def check(
    data: Data = None,
    database: Database = None,
    blobs: Blobs = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what is wrong with the database; exit 1 if anything is. It changes nothing."""
    from task_server.store.maintenance import check as run

    findings = run(_url(data, database), _blobs(data, blobs))
    if output is not Format.TABLE:
        show_rows([as_row(each) for each in findings], (), output)
    for each in findings if output is Format.TABLE else ():
        print(f"{each.what}: {each.count}, for example {each.example}")
    if findings:
        raise typer.Exit(1)
    note("the database is whole")


@app.command()
def backup(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File to make; it must not exist.")],
    data: Data = None,
    database: Database = None,
    blobs: Blobs = None,
    with_blobs: Annotated[
        bool, typer.Option("--with-blobs", help="Copy large payloads too: `blobs` beside PATH.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Copy the database into a file, while its server works or without any."""
    from task_server.store.maintenance import backup as run

    folder = _blobs(data, blobs)
    saved = run(_url(data, database), path, blobs=folder, copies_blobs=with_blobs)
    show_one(as_row(saved), output)
    if saved.blobs and not with_blobs:
        note(f"its {saved.blobs} large payloads are not in it: copy {folder} too, or --with-blobs")
    if saved.blobs_missing:
        note(f"{saved.blobs_missing} large payloads that its tasks need are not in {folder}")


def _url(data: Path | None, database: str | None) -> str:
    return database or database_url_in(data or state_directory())


def _blobs(data: Path | None, blobs: str | None) -> Path | None:
    """The folder of the large payloads; None when they lie elsewhere."""
    if blobs is None:
        return (data or state_directory()).expanduser() / "blobs"
    return None if blobs.startswith("s3://") else Path(blobs).expanduser()
