"""Group commit: one thread that does all waiting operations in one transaction.

What comes in one turn of the event loop is handed over together at its end; beyond that it never
waits to collect: it takes whatever is there, and while it works and syncs the next group gathers by
itself. Replies leave only after the commit.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from task_server.errors import Unavailable

MAXIMUM_ROWS = 10_000
"""Rows in one group; a request is never split."""

MAXIMUM_WAITING = 200_000
"""Rows that may wait for the next groups: the database does not keep up, or is away."""

QUIET_SECONDS = 1.0
"""Without an operation, after which the writer gives back what it needs no more."""

R = TypeVar("R")


class Operation(Generic[R]):
    """One request's share of a group."""

    __slots__ = ("error", "future", "is_done", "is_intake", "result", "rows", "work")

    def __init__(
        self, work: Callable[[Operation[R]], None], *, rows: int = 1, is_intake: bool = False
    ) -> None:
        self.work = work
        """Does it inside the transaction, and settles it, now or in a later group."""
        self.rows = rows
        self.is_intake = is_intake
        """It brings new work: on a full disk the first to be refused."""
        self.future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self.result: R | None = None
        self.error: BaseException | None = None
        self.is_done = False

    def settle(self, result: R) -> None:
        """What its caller gets once the group is on disk."""
        self.result, self.is_done = result, True

    def fail(self, error: BaseException) -> None:
        """What its caller gets instead."""
        self.error, self.is_done = error, True

    def reset(self) -> None:
        """Forget what became of it: its group was undone."""
        self.result, self.error, self.is_done = None, None, False

    def answer(self) -> None:
        """Tell the caller; on the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
            self.future.exception()  # marked as seen: its caller may have gone away
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # settled with R


class GroupCommit:
    """The thread. `run` does a group and commits it, or fails its operations; it never raises.

    `on_idle` is called when nothing waits after a group, `on_quiet` when nothing came for
    QUIET_SECONDS, and again while it gives True and nothing comes; they must not raise either.
    """

    def __init__(
        self,
        run: Callable[[list[Operation[object]]], None],
        *,
        on_idle: Callable[[], None] = lambda: None,
        on_quiet: Callable[[], bool] = lambda: False,
        name: str,
    ) -> None:
        self._run = run
        self._on_idle = on_idle
        self._on_quiet = on_quiet
        self._turn: list[Operation[object]] = []
        """What came in this turn of the event loop."""
        self._queue: SimpleQueue[list[Operation[object]] | None] = SimpleQueue()
        self._left: deque[Operation[object]] = deque()
        """Taken from the queue, and too much for the last group."""
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def is_closed(self) -> bool:
        """True once it takes no more operations."""
        return self._is_closed

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def put(self, operation: Operation[R]) -> asyncio.Future[R]:
        """Add an operation to the next group. Raises Unavailable once closed."""
        if self._is_closed:
            raise Unavailable("the server is about to stop")
        if not self._turn:
            operation.future.get_loop().call_soon(self._hand_over)
        self._turn.append(operation)  # type: ignore[arg-type]  # invariant R, only passed through
        return operation.future

    def _hand_over(self) -> None:
        if self._turn:
            self._queue.put(self._turn)
            self._turn = []

    async def close(self) -> None:
        """Do what waits, then end the thread."""
        self._is_closed = True
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _work(self) -> None:
        while True:
            group, is_last = self._take()
            if group:
                self._run(group)
            if is_last:
                return
            if not self._left and self._queue.empty():
                self._on_idle()

    def _take(self) -> tuple[list[Operation[object]], bool]:
        group: list[Operation[object]] = []
        rows = 0
        while rows < MAXIMUM_ROWS:
            if not self._left:
                if group and self._queue.empty():
                    break
                turn = self._queue.get() if group else self._first()
                if turn is None:
                    return group, True
                self._left.extend(turn)
            operation = self._left.popleft()
            group.append(operation)
            rows += operation.rows
        return group, False

    def _first(self) -> list[Operation[object]] | None:
        try:
            return self._queue.get(timeout=QUIET_SECONDS)
        except Empty:
            while self._on_quiet() and self._queue.empty():
                pass
            return self._queue.get()


class LoopGroupCommit:
    """The same on the event loop, for a database whose driver waits there.

    `run` is a coroutine then; it never raises, too.
    """

    def __init__(self, run: Callable[[list[Operation[object]]], Awaitable[None]]) -> None:
        self._run = run
        self._queue: deque[Operation[object]] = deque()
        self._rows = 0
        self._has_more = asyncio.Event()
        self._is_closed = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_closed(self) -> bool:
        """True once it takes no more operations."""
        return self._is_closed

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.ensure_future(self._work())

    def put(self, operation: Operation[R]) -> asyncio.Future[R]:
        """Add an operation to the next group. Raises Unavailable once closed, or for too many."""
        if self._is_closed:
            raise Unavailable("the server is about to stop")
        if operation.rows and self._rows >= MAXIMUM_WAITING:
            raise Unavailable("too much waits for the database; try again", retry_after=1.0)
        self._queue.append(operation)  # type: ignore[arg-type]  # invariant R, only passed through
        self._rows += operation.rows
        self._has_more.set()
        return operation.future

    async def close(self) -> None:
        """Do what waits, then end."""
        self._is_closed = True
        self._has_more.set()
        if self._task is not None:
            await self._task

    async def abandon(self) -> None:
        """End at once, as if killed."""
        self._is_closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _work(self) -> None:
        while self._queue or not self._is_closed:
            await self._has_more.wait()
            if not self._is_closed:
                self._has_more.clear()
            while self._queue:
                await self._run(self._take())

    def _take(self) -> list[Operation[object]]:
        group: list[Operation[object]] = []
        rows = 0
        while self._queue and rows < MAXIMUM_ROWS:
            group.append(self._queue.popleft())
            rows += group[-1].rows
        self._rows -= rows
        return group


def answer_all(operations: Sequence[Operation[object]]) -> None:
    """Tell all callers; on the event loop."""
    for operation in operations:
        operation.answer()
