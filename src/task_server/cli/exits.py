"""Exit statuses."""

from __future__ import annotations

from task_server.errors import (
    NotFinished,
    RequestError,
    ServerUnreachable,
    TaskError,
    TaskServerError,
)

OK = 0
TASK_FAILED = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
NOT_FINISHED = 124

_STATUSES: tuple[tuple[type[TaskServerError], int], ...] = (
    (NotFinished, NOT_FINISHED),
    (TaskError, TASK_FAILED),
    (ServerUnreachable, UNREACHABLE),
    (RequestError, REFUSED),
)


def status_of(error: TaskServerError) -> int:
    """The status with which a command ends because of `error`."""
    return next((status for kind, status in _STATUSES if isinstance(error, kind)), USAGE)
