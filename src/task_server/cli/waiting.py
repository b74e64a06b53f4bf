"""Waiting for an answer, and saying why it takes so long to start."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from task_server.cli.output import note
from task_server.client.client import Client
from task_server.client.future import Future
from task_server.errors import NotFinished, RequestError

PATIENCE_SECONDS = 5.0
"""After so long a task that has not started is worth a word."""


def error_of(client: Client, future: Future[Any], seconds: float | None) -> BaseException | None:
    """Wait for a task's end; what it failed with, None if there is an answer.

    Tells on stderr why it has not started after a while, as without a worker that could have it.
    Raises NotFinished after `seconds`.
    """
    patience = PATIENCE_SECONDS if seconds is None else min(seconds, PATIENCE_SECONDS)
    if not future.refresh(patience) and future.state in ("queued", "delayed"):
        with suppress(RequestError):
            note(client.explain(future.id).summary)
    try:
        return future.exception(None if seconds is None else seconds - patience)
    except NotFinished:
        message = f"task {future.id} is {future.state} after {seconds:g} s"
        raise NotFinished(message) from None
