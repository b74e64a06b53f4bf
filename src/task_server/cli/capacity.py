"""What the fleet can do until a moment: capacity."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from task_server.cli.output import Format, Output, as_row, show_one
from task_server.client import requests
from task_server.client.client import Client
from task_server.client.durations import duration, span
from task_server.protocol.tasks import Capacity

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(capacity)


def capacity(
    finish_by: Annotated[
        str, typer.Option(metavar="TIME", help="2030-01-31T18:00, or from now: 90m, 8h, 2d.")
    ],
    output: Output = Format.TABLE,
) -> None:
    """Tell whether the queue is done by then, how many slots that needs, and what else fits.

    Example: task-server capacity --finish-by 8h
    """
    reply = Client().session.send(requests.read_capacity(_moment(finish_by).isoformat()))
    told = requests.value_of(reply, Capacity)
    if output is not Format.TABLE:
        show_one(as_row(told), output)
        return
    print(f"until then: {duration(told.seconds)}, on {told.slots:,} slots")
    print(f"to do: {span(told.queued.p10, told.queued.p90)} of one core")
    if told.eta is None:
        print("done in: there is no worker")
    else:
        print(f"done in: {span(told.eta.p10, told.eta.p90)}")
    print(
        f"slots needed: {_slots(told.slots_needed.p50)}, to be sure {_slots(told.slots_needed.p90)}"
    )
    short = told.free.p50 < 0
    print(f"{'short of' if short else 'free'}: {duration(abs(told.free.p50))} of one core")


def _slots(number: int | None) -> str:
    return "no number of them does" if number is None else f"{number:,}"


def _moment(text: str) -> datetime:
    """A time, or so long from now."""
    try:
        if text[-1:] in _UNITS:
            return datetime.now(UTC) + timedelta(seconds=float(text[:-1]) * _UNITS[text[-1]])
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError) as error:
        message = f"{text!r} is neither a time nor one such as 8h"
        raise typer.BadParameter(message, param_hint="--finish-by") from error
