"""All commands together, and what becomes of their errors."""

from __future__ import annotations

import platform
import sys
from collections.abc import Sequence
from importlib import metadata

import typer

from task_server.cli import (
    calls,
    capacity,
    database,
    doctor,
    environments,
    functions,
    packages,
    servers,
    tasks,
    tokens,
    workers,
)
from task_server.cli.exits import OK, status_of
from task_server.errors import TaskServerError

app = typer.Typer(
    name="task-server",
    help="Call functions on workers, and know beforehand how long they will take.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for group in (servers, calls, tasks, capacity, doctor):
    group.add_to(app)
app.add_typer(workers.app, name="workers")
app.add_typer(functions.app, name="functions")
app.add_typer(environments.app, name="env")
app.add_typer(packages.app, name="packages")
app.add_typer(tokens.app, name="token")
app.add_typer(database.app, name="db")


@app.command()
def version() -> None:
    """Show the versions of task-server and Python."""
    print(f"task-server {metadata.version('task-server')}, Python {platform.python_version()}")


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit status. Expected errors become one line on stderr."""
    try:
        typer.main.get_command(app).main(list(arguments), prog_name="task-server")
    except SystemExit as end:  # Typer's way out, also of usage errors, which it has shown
        return end.code if isinstance(end.code, int) else OK
    except TaskServerError as error:
        print(f"task-server: {error}", file=sys.stderr)
        return status_of(error)
    return OK
