"""Words for tests of what a server keeps: time that passes, tasks that end, what goes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from task_server.server.clock import Clock
from task_server.server.upkeep.prune import Pruner
from tests.server.asgi import App
from tests.server.working import Worker, joined

DAY = 86400.0
READ, UNREAD, FAILED = 100.0, 1000.0, 500.0
SETTINGS = {
    "keep_read_seconds": READ,
    "keep_unread_seconds": UNREAD,
    "keep_failed_seconds": FAILED,
}
"""Much shorter than a day."""


def advance(app: App, seconds: float) -> None:
    """Let time pass for the server and its store, on the wall too."""
    clock = app.state.clock
    assert isinstance(clock, Clock)
    wall = clock._wall
    clock._wall = lambda: wall() + seconds
    clock._offset += seconds


async def nothing(_: float) -> None:
    """A pause that takes no time."""
    await asyncio.sleep(0)


async def purge(app: App) -> int:
    """Write what was read, and purge what is due; how many tasks that were."""
    await app.state.first_reads.flush()
    return await Pruner(app.state, sleep=nothing).purge()


async def submitted(app: App, count: int = 1, **fields: Any) -> list[str]:
    """The ids of new tasks, each with its number as its argument."""
    tasks = [{"args": [n]} for n in range(count)]
    body = {"defaults": {"function": "math:sqrt", **fields}, "tasks": tasks}
    reply = await app.ask("POST", "/v1/tasks", body)
    assert reply.status == 202, reply.body
    ids: list[str] = reply.json["ids"]
    return ids


async def succeeded(app: App, count: int = 1, **fields: Any) -> list[str]:
    """The ids of new tasks that have succeeded, in the order of their arguments."""
    ids = await submitted(app, count, **fields)
    worker: Worker = await joined(app, slots=count)
    await worker.succeed(*await worker.take(count))
    return ids


async def status(app: App, task: str, **options: Any) -> int:
    """What asking for a task comes to."""
    return (await app.ask("GET", f"/v1/tasks/{task}", **options)).status


def now() -> float:
    """The wall's time."""
    return time.time()
