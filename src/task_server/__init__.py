"""A durable task server that tells how long the work will take."""

from __future__ import annotations

# Known to type checkers by this name; importing typing would take longer than all the rest.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any

    from task_server.client.batch import Answer as Answer
    from task_server.client.batch import Batch as Batch
    from task_server.client.blob import Blob as Blob
    from task_server.client.client import Client as Client
    from task_server.client.client import RemoteFunction as RemoteFunction
    from task_server.client.estimate import Estimate as Estimate
    from task_server.client.executor import Executor as Executor
    from task_server.client.future import Future as Future
    from task_server.errors import NotFinished as NotFinished
    from task_server.errors import RemoteError as RemoteError
    from task_server.errors import RequestError as RequestError
    from task_server.errors import ServerUnreachable as ServerUnreachable
    from task_server.errors import TaskCancelled as TaskCancelled
    from task_server.errors import TaskError as TaskError
    from task_server.errors import TaskExpired as TaskExpired
    from task_server.errors import TaskFailed as TaskFailed
    from task_server.errors import TaskServerError as TaskServerError

    __version__: str

_HOMES = {
    "task_server.client.batch": ("Answer", "Batch"),
    "task_server.client.client": ("Client", "RemoteFunction"),
    "task_server.client.estimate": ("Estimate",),
    "task_server.client.executor": ("Executor",),
    "task_server.client.future": ("Future",),
    "task_server.client.blob": ("Blob",),
    "task_server.errors": (
        "NotFinished",
        "RemoteError",
        "RequestError",
        "ServerUnreachable",
        "TaskCancelled",
        "TaskError",
        "TaskExpired",
        "TaskFailed",
        "TaskServerError",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [*_HOME_OF, "__version__"]


def __getattr__(name: str) -> Any:
    # Imported when first used: a worker's runner or a script that needs one part loads no other.
    from importlib import import_module

    value: Any
    if name == "__version__":
        value = import_module("importlib.metadata").version("task-server")
    elif name in _HOME_OF:
        value = getattr(import_module(_HOME_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
