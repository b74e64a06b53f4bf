"""How a finished task becomes a value or an exception."""

from __future__ import annotations

import binascii
import pickle
from typing import Any

from msgspec import Struct

from task_server.errors import (
    RemoteError,
    TaskCancelled,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskServerError,
)
from task_server.protocol.tasks import Error


class RemoteTraceback(Exception):
    """Where an exception came from on the worker: its traceback as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text.rstrip()}\n"""'


class Outcome(Struct, frozen=True):
    """How a task ended: `value`, or `error` if it has no answer."""

    value: Any = None
    error: BaseException | None = None

    def get(self) -> Any:
        """The value; raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value


def cancellation(task: str, why: Error | None = None) -> TaskCancelled:
    """The error of a cancelled task; `why`, where it was not by its owner."""
    reason = f": {_told(why)}" if why is not None else ""
    return TaskCancelled(f"task {task} was cancelled{reason}", task=task)


def failure(task: str, state: str, error: Error | None) -> Outcome:
    """The outcome of a task that ended in any other state than succeeded."""
    if state == "cancelled":
        return Outcome(error=cancellation(task, error))
    if state == "expired":
        message = f"task {task} had not started by its start_by"
        return Outcome(error=TaskExpired(message, task=task))
    if error is None:
        return Outcome(error=TaskError(f"task {task} is {state} without an answer", task=task))
    raised = _own_exception(error) or _remote_error(task, error)
    if error.traceback:
        raised.__cause__ = RemoteTraceback(error.traceback)
    return Outcome(error=raised)


def unreadable(task: str, error: TaskServerError) -> Outcome:
    """The outcome of a task whose answer is there but cannot be read here."""
    own = TaskError(f"task {task}: {error}", task=task)
    own.__cause__ = error.__cause__
    return Outcome(error=own)


def _own_exception(error: Error) -> Exception | None:
    """The function's exception itself; None when it does not exist here or must not be raised."""
    if error.kind != "exception" or error.pickle is None:
        return None
    try:
        raised = pickle.loads(binascii.a2b_base64(error.pickle))
    except Exception:  # whatever the exception's own code raises: RemoteError says the same
        return None
    # SystemExit and KeyboardInterrupt would end the caller, who has done nothing.
    return raised if isinstance(raised, Exception) else None


def _remote_error(task: str, error: Error) -> TaskFailed:
    kind = RemoteError if error.kind == "exception" else TaskFailed
    told = _told(error)
    return kind(
        f"task {task} failed ({error.kind}): {told}" if kind is TaskFailed else told,
        task=task,
        kind=error.kind,
        type=error.type,
        traceback=error.traceback,
    )


def _told(error: Error) -> str:
    return f"{error.type}: {error.message}" if error.type else error.message
