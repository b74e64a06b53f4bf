"""The one writer: groups form by themselves, and callers are told after the commit."""

import asyncio
import threading

import pytest

from task_server.errors import Unavailable
from task_server.store import group_commit
from task_server.store.group_commit import MAXIMUM_ROWS, GroupCommit, Operation, answer_all


class Writer:
    """Runs groups, each when it is let."""

    def __init__(self) -> None:
        self.groups: list[list[Operation[object]]] = []
        self.may_run = threading.Semaphore(0)
        self.has_taken = threading.Event()
        self.loop = asyncio.get_running_loop()
        self.commits = GroupCommit(self.run, name="writer")
        self.commits.start()

    def run(self, group: list[Operation[object]]) -> None:
        self.has_taken.set()
        self.may_run.acquire()
        self.groups.append(group)
        for operation in group:
            operation.work(operation)
        self.loop.call_soon_threadsafe(answer_all, group)

    def put(self, value: object, *, rows: int = 1) -> asyncio.Future[object]:
        return self.commits.put(Operation(lambda operation: operation.settle(value), rows=rows))

    def let(self, groups: int) -> None:
        self.may_run.release(groups)


async def busy() -> tuple[Writer, asyncio.Future[object]]:
    """A writer that has taken a first operation and waits to do it."""
    writer = Writer()
    first = writer.put("first")
    await asyncio.to_thread(writer.has_taken.wait)
    return writer, first


async def test_what_gathers_while_it_works_is_one_group() -> None:
    writer, first = await busy()
    others = [writer.put(number) for number in range(10)]

    writer.let(2)

    assert await asyncio.gather(first, *others) == ["first", *range(10)]
    assert [len(group) for group in writer.groups] == [1, 10]
    await writer.commits.close()


async def test_a_quiet_writer_is_told_of_it_while_it_wants_to_and_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(group_commit, "QUIET_SECONDS", 0.001)
    loop, quiet = asyncio.get_running_loop(), asyncio.Queue[None]()
    wants_more = iter([True, True, False, False])

    def tell() -> bool:
        loop.call_soon_threadsafe(quiet.put_nowait, None)
        return next(wants_more)

    commits = GroupCommit(lambda group: None, on_quiet=tell, name="writer")
    commits.start()

    for _ in range(3):
        await quiet.get()
    commits.put(Operation(lambda operation: None))
    await quiet.get()

    assert quiet.empty()
    await commits.close()


async def test_a_group_is_bounded_and_a_request_is_never_split() -> None:
    writer, first = await busy()
    others = [writer.put(None, rows=MAXIMUM_ROWS - 1) for _ in range(3)]
    others.append(writer.put(None, rows=5 * MAXIMUM_ROWS))

    writer.let(4)

    await asyncio.gather(first, *others)
    assert [len(group) for group in writer.groups] == [1, 2, 2]
    await writer.commits.close()


async def test_nobody_is_told_before_the_group_is_done() -> None:
    writer, first = await busy()
    await asyncio.sleep(0.01)
    assert not first.done()

    writer.let(1)

    assert await first == "first"
    await writer.commits.close()


async def test_closing_does_what_waits() -> None:
    writer, first = await busy()
    second = writer.put("second")
    writer.let(2)

    await writer.commits.close()

    assert [await first, await second] == ["first", "second"]
    with pytest.raises(Unavailable):
        writer.put("third")


async def test_an_error_reaches_its_caller_alone() -> None:
    writer, first = await busy()

    def refuse(operation: Operation[object]) -> None:
        operation.fail(Unavailable("no"))

    second = writer.commits.put(Operation(refuse))
    third = writer.put("third")
    writer.let(2)

    assert [await first, await third] == ["first", "third"]
    with pytest.raises(Unavailable):
        await second
    await writer.commits.close()


async def test_a_caller_that_went_away_is_passed_over() -> None:
    writer, first = await busy()
    second = writer.put("second")
    second.cancel()

    writer.let(2)

    assert await first == "first"
    await writer.commits.close()
    assert second.cancelled()


async def test_an_operation_that_is_reset_can_be_done_again() -> None:
    operation: Operation[object] = Operation(lambda operation: operation.settle("done"))
    operation.fail(Unavailable("first try"))

    operation.reset()
    assert not operation.is_done
    operation.work(operation)
    operation.answer()

    assert await operation.future == "done"
