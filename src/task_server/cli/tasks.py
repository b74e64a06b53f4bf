"""Commands about tasks that exist: wait, status, answer, logs, cancel, ls."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated

import msgspec
import typer

from task_server.cli.exits import NOT_FINISHED, TASK_FAILED
from task_server.cli.output import Format, Output, Row, as_row, note, rows_of, show_one, show_rows
from task_server.client import requests
from task_server.client.batch import Batch, is_done
from task_server.client.client import Client
from task_server.client.progress import Bar
from task_server.errors import Conflict, NotFinished, NotFound, TaskCancelled, TaskError
from task_server.protocol.tasks import TERMINAL

TaskId = Annotated[str, typer.Argument(metavar="ID", help="Id of the task.")]
TasksAndBatches = Annotated[
    list[str], typer.Argument(metavar="ID...", help="Ids of tasks or batches.")
]
_COLUMNS = ("id", "state", "module", "function", "package", "submitted_at", "run_seconds")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (wait, status, explain, answer, logs, cancel, ls):
        app.command()(command)


def wait(
    ids: TasksAndBatches,
    timeout: Annotated[float | None, typer.Option(help="Seconds before giving up.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """Wait until all have ended; exit 1 if any task has no answer, 124 if time was up before."""
    client, bar = Client(), Bar()
    end = None if timeout is None else time.monotonic() + timeout
    rows: list[Row] = []
    try:
        for done, each in enumerate(ids):
            left = None if end is None else max(end - time.monotonic(), 0)
            if len(ids) > 1:
                bar.show(done, len(ids), f"{done:,} of {len(ids):,}")
            rows.append(_ended(client, each, left, bar))
    finally:
        bar.close()
    show_rows(rows, ("id", "state"), output)
    if any(row["state"] not in TERMINAL for row in rows):
        raise typer.Exit(NOT_FINISHED)
    if any(row["state"] != "succeeded" for row in rows):
        raise typer.Exit(TASK_FAILED)


def _ended(client: Client, id: str, seconds: float | None, bar: Bar) -> Row:
    """A task or a batch, once it has ended or time is up."""
    try:
        with suppress(TaskCancelled, NotFinished):
            client.future(id).exception(seconds)
    except NotFound as no_task:
        try:
            batch = client.batch(id)
        except NotFound:
            raise no_task from None
        bar.follow(client.session, id)
        return _ended_batch(batch, seconds)
    return as_row(client.status(id))


def _ended_batch(batch: Batch, seconds: float | None) -> Row:
    with suppress(NotFinished):
        batch.wait(seconds)
    view = batch.status()
    is_whole = view.counts.get("succeeded") == view.total
    state = "running" if not is_done(view) else "succeeded" if is_whole else "failed"
    return {"id": view.id, "state": state, **as_row(view)}


def status(id: TaskId, output: Output = Format.TABLE) -> None:
    """Show all that is known of a task."""
    show_one(as_row(Client().status(id)), output)


def explain(id: TaskId, output: Output = Format.TABLE) -> None:
    """Say why a task waits, where it runs or how it ended.

    Example: waiting: 0 of 3 workers have 16 GiB free; next slot expected in 12-40 s
    """
    told = Client().explain(id)
    if output is not Format.TABLE:
        show_one(as_row(told), output)
        return
    print(told.summary)
    for reason in told.reasons:
        print(f"- {reason.message}")


def answer(id: TaskId) -> None:
    """Print the answer of a task that has ended."""
    client = Client()
    try:
        reply = client.session.send(requests.read_answer(id))
    except Conflict as error:
        raise TaskError(f"task {id}: {error}", task=id) from error
    if reply.status == 202:
        raise NotFinished(f"task {id} has not ended; wait for it: task-server wait {id}")
    if "json" in reply.headers.get("content-type", ""):
        print(requests.text_of(reply))
    elif sys.stdout.isatty():
        note("the answer is pickled: redirect it into a file, or read it with the Python client")
        raise typer.Exit(TASK_FAILED)
    else:
        sys.stdout.buffer.write(reply.body)


def logs(id: TaskId) -> None:
    """Print what a task has printed so far."""
    sys.stdout.write(Client().future(id).logs())


def cancel(ids: TasksAndBatches) -> None:
    """Cancel tasks, also running ones; exit 1 if any had ended otherwise before.

    Of a batch all tasks that have not ended are cancelled.
    """
    client = Client()
    outcomes = {each: _is_cancelled(client, each) for each in ids}
    for each, is_cancelled in outcomes.items():
        print(f"{each} {'cancelled' if is_cancelled else 'had ended before'}")
    if not all(outcomes.values()):
        raise typer.Exit(TASK_FAILED)


def _is_cancelled(client: Client, id: str) -> bool:
    """Cancel a task or a batch; False if that had ended otherwise before."""
    try:
        return client.cancel(id)
    except NotFound as no_task:
        try:
            batch = client.batch(id)
        except NotFound:
            raise no_task from None
        had_ended = is_done(batch.status())
        batch.cancel()
        return not had_ended


def ls(
    state: Annotated[str | None, typer.Option(help="queued, running, failed ...")] = None,
    function: Annotated[str | None, typer.Option(help="module:qualname.")] = None,
    batch: Annotated[str | None, typer.Option(help="Id of a batch.")] = None,
    tag: Annotated[str | None, typer.Option(help="A tag.")] = None,
    limit: Annotated[int, typer.Option(help="How many at most.", min=1)] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the last page ended.")] = None,
    output: Output = Format.TABLE,
) -> None:
    """List tasks, the newest first."""
    request = requests.list_tasks(
        state=state, function=function, batch=batch, tag=tag, limit=limit, cursor=cursor
    )
    body = Client().session.send(request).body
    rows: list[Row] = list(rows_of(body, "tasks"))
    show_rows(rows, _COLUMNS, output)
    following = msgspec.json.decode(body, type=_Page).next
    if following:
        note(f"more: --cursor {following}")


class _Page(msgspec.Struct):
    next: str | None = None
