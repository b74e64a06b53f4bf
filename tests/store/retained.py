"""Words for tests of what is kept and what goes."""

from __future__ import annotations

from typing import Any

from task_server.protocol.ids import new_id
from task_server.store.records.retention import DAY, Keep
from task_server.store.records.sql import Rows
from task_server.store.submissions import NewTask
from tests.store.world import World, failed, new_task, spec, succeeded

KEEP = Keep(read=100.0, unread=1000.0, failed=500.0)
"""Shorter than a day: rows of young ids outlive their payloads."""

__all__ = ["DAY", "KEEP", "count", "delete", "ended", "purge", "succeed", "young"]


def young(world: World, **options: Any) -> NewTask:
    """A task whose id was made now."""
    return new_task(new_id(at=world.clock.now), **options)


async def succeed(world: World, *tasks: NewTask, answer: bytes = b"2.0", **options: Any) -> None:
    """Submit tasks, and have them succeed."""
    await world.submit(*tasks, **options)
    worker = await world.worker()
    dealt = await worker.take(len(tasks))
    assert await worker.report(*[succeeded(each, answer) for each in dealt]) == [200] * len(tasks)


async def ended(world: World, state: str, task: NewTask) -> None:
    """Submit a task, and have it end in that state."""
    if state == "expired":
        task.start_by = world.clock.now + 1
    await world.submit(task, kind=spec(tags=(state,)))
    if state == "cancelled":
        await world.store.cancel(None, [task.id])
    elif state == "expired":
        await world.advance(1.5)
    else:
        worker = await world.worker()
        dealt = await worker.take_one()
        await worker.report(succeeded(dealt) if state == "succeeded" else failed(dealt))
    assert await world.state(task.id) == state


async def purge(world: World, keep: Keep = KEEP) -> int:
    """A whole pass; how many tasks were due."""
    now, total = world.clock.now, 0
    world.has_purged = True
    at = await world.store.begin_pass(keep, now=now)
    while True:
        numbers, following = await world.store.find_due(keep, at, now=now)
        total += await world.store.purge(numbers, keep, now=now)
        if following is None:
            return total
        at = following


async def delete(world: World, owner: int | None, task: bytes) -> int:
    """Delete a task; the status."""
    world.has_purged = True
    return await world.store.delete(owner, task)


async def count(world: World, table: str) -> int:
    """How many rows a table has."""
    store: Any = world.store

    async def work(rows: Rows) -> int:
        return int((await rows.fetch(f"SELECT count(*) FROM {table}"))[0][0])

    found: int = await store.read(work)
    return found
