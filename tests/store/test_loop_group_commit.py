"""The one writer on the event loop: groups form by themselves, and the queue is bounded."""

from __future__ import annotations

import asyncio

import pytest

from task_server.errors import Unavailable
from task_server.store import group_commit
from task_server.store.group_commit import MAXIMUM_ROWS, LoopGroupCommit, Operation, answer_all


class Writer:
    """Runs groups, each when it is let."""

    def __init__(self) -> None:
        self.groups: list[list[Operation[object]]] = []
        self.may_run = asyncio.Semaphore(0)
        self.has_taken = asyncio.Event()
        self.commits = LoopGroupCommit(self.run)
        self.commits.start()

    async def run(self, group: list[Operation[object]]) -> None:
        self.has_taken.set()
        await self.may_run.acquire()
        self.groups.append(group)
        for operation in group:
            operation.work(operation)
        answer_all(group)

    def put(self, value: object, *, rows: int = 1) -> asyncio.Future[object]:
        return self.commits.put(Operation(lambda operation: operation.settle(value), rows=rows))

    def let(self, groups: int) -> None:
        for _ in range(groups):
            self.may_run.release()


async def busy() -> tuple[Writer, asyncio.Future[object]]:
    """A writer that has taken a first operation and waits to do it."""
    writer = Writer()
    first = writer.put("first")
    await writer.has_taken.wait()
    return writer, first


async def test_what_gathers_while_it_works_is_one_group() -> None:
    writer, first = await busy()
    others = [writer.put(number) for number in range(10)]

    writer.let(2)

    assert await asyncio.gather(first, *others) == ["first", *range(10)]
    assert [len(group) for group in writer.groups] == [1, 10]
    await writer.commits.close()


async def test_a_group_is_bounded_and_a_request_is_never_split() -> None:
    writer, first = await busy()
    others = [writer.put(None, rows=MAXIMUM_ROWS - 1) for _ in range(3)]
    others.append(writer.put(None, rows=5 * MAXIMUM_ROWS))

    writer.let(4)

    await asyncio.gather(first, *others)
    assert [len(group) for group in writer.groups] == [1, 2, 2]
    await writer.commits.close()


async def test_what_comes_while_the_database_is_away_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "MAXIMUM_WAITING", 100)
    writer, first = await busy()
    waiting = [writer.put(number, rows=10) for number in range(10)]

    with pytest.raises(Unavailable):
        writer.put("one more")
    quiet = writer.put("writes nothing", rows=0)

    writer.let(2)
    assert await asyncio.gather(first, quiet, *waiting)
    writer.let(1)
    assert await writer.put("again") == "again"
    await writer.commits.close()


async def test_closing_does_what_waits() -> None:
    writer, first = await busy()
    second = writer.put("second")
    writer.let(2)

    await writer.commits.close()

    assert [await first, await second] == ["first", "second"]
    with pytest.raises(Unavailable):
        writer.put("third")


async def test_abandoning_does_nothing_more() -> None:
    writer, first = await busy()
    second = writer.put("second")

    await writer.commits.abandon()

    assert not first.done() and not second.done() and writer.groups == []
    with pytest.raises(Unavailable):
        writer.put("third")
