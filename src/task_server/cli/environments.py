"""Commands about environments."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from task_server.cli.calls import Packages, Python, Requirements, Script, files
from task_server.cli.exits import NOT_FINISHED, TASK_FAILED
from task_server.cli.output import Format, Output, as_row, note, rows_of, show_one, show_rows
from task_server.cli.resources import labels_in
from task_server.client import requests
from task_server.client.client import Client
from task_server.client.environments import Preparation, WorkerState
from task_server.client.session import LONGEST_WAIT
from task_server.errors import NotFinished, TaskFailed

REFRESH_SECONDS = 300.0

app = typer.Typer(help="Environments that workers build.", no_args_is_help=True)
_COLUMNS = ("environment", "python", "requirements", "ready", "workers", "wanted_until")
_WORKERS = ("name", "state", "log")

Digest = Annotated[str, typer.Argument(metavar="DIGEST", help="As `status` and `env ls` show it.")]


@app.callback()
def environments() -> None:
    """Environments that workers build."""


@app.command()
def ls(output: Output = Format.TABLE) -> None:
    """List the environments, newest first, and how many workers have them."""
    body = Client().session.send(requests.list_environments()).body
    rows = rows_of(body, "environments")
    if output is Format.TABLE:
        rows = [{**row, "requirements": _requirements(row)} for row in rows]
    show_rows(rows, _COLUMNS, output)


def _requirements(row: dict[str, Any]) -> str:
    asked = [" ".join(each) for each in row.get("requirements", []) if each]
    return " | ".join(asked)


@app.command()
def show(digest: Digest, output: Output = Format.TABLE) -> None:
    """Show what is in an environment and how far each worker is with it."""
    body = Client().session.send(requests.read_environment(digest)).body
    show_one(msgspec.json.decode(body, type=dict[str, object]), output)


@app.command()
def prepare(
    packages: Annotated[
        list[str] | None, typer.Argument(metavar="[PACKAGE]...", help="As with `call -p`.")
    ] = None,
    python: Annotated[str | None, typer.Option(help="Python version, such as 3.11.")] = None,
    environment: Annotated[
        str | None, typer.Option(help="Digest of a lock, in the place of packages.")
    ] = None,
    module: Annotated[
        list[str] | None,
        typer.Option("-m", "--module", help="Import this, not what the packages are named after."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE: only workers that have it.")
    ] = None,
    keep: Annotated[
        float | None, typer.Option(help="Seconds for which it is to stay; default: 30 days.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Seconds to wait for the workers; 0: not at all.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Build and import an environment on all workers, ahead of its tasks.

    Workers that join later build it too. Exit status 1 if it failed on any worker.
    """
    if not packages and environment is None and not module:
        raise typer.BadParameter("name a package, --environment DIGEST, or --module NAME")
    preparation = Client().prepare(
        packages or None,
        python=python,
        environment=environment,
        modules=module or (),
        labels=labels_in(label or ()),
        keep=keep,
    )
    status = _follow(preparation, wait)
    row = {"environment": preparation.environment, "problem": preparation.problem or None}
    if output is Format.TABLE:
        if preparation.environment:
            show_rows([as_row(each) for each in preparation.workers], _WORKERS[:2], output)
            print(preparation.environment)
    else:
        show_one({**row, "workers": [as_row(each) for each in preparation.workers]}, output)
    raise typer.Exit(status)


def _follow(preparation: Preparation, wait: float | None) -> int:
    """Tell on stderr how far the workers are; gives the exit status."""
    try:
        preparation.wait(wait, on_news=_tell, on_waiting=lambda reason: note(f"waits: {reason}"))
    except TaskFailed as error:
        note(str(error))
        return TASK_FAILED
    except NotFinished as error:
        if wait:
            note(str(error))
        return NOT_FINISHED if wait else 0
    if not preparation.workers:
        note("there is no such worker yet; those that join will build it")
    return 0


def _tell(worker: WorkerState) -> None:
    note(f"{worker.name}: {worker.state}")


@app.command()
def gc(
    digests: Annotated[
        list[str] | None,
        typer.Argument(metavar="[DIGEST]...", help="Environments that are wanted no longer."),
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Remove from all workers the environments that are neither in use nor wanted."""
    body = msgspec.json.encode({"environments": digests or []})
    request = requests.collect_environments(body, wait=LONGEST_WAIT)
    reply = Client().session.send(request, wait=LONGEST_WAIT)
    show_rows(rows_of(reply.body, "workers"), _WORKERS, output)


@app.command()
def refresh(
    package: Packages = None,
    python: Python = None,
    requirements: Requirements = None,
    script: Script = None,
    output: Output = Format.TABLE,
) -> None:
    """Choose the versions for these packages anew; tasks submitted from now on get them.

    Name the packages as the tasks do. Tasks that were submitted before keep their lock.
    """
    fields = {"package": package, "python": python, **files(requirements, script)}
    if package and len(package) == 1:
        fields["package"] = package[0]
    body = msgspec.json.encode(fields)
    reply = Client().session.send(requests.refresh_environment(body), wait=REFRESH_SECONDS).body
    show_one(msgspec.json.decode(reply, type=dict[str, object]), output)
