"""Those who wait, for a task or a batch; woken by the commit that ends it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager

from task_server.store.rows import AnswerRow, Ended

MAXIMUM_LIVE = 20_000
"""Ends that a slow reader of a batch may lag behind before it reads the store again."""


class BatchWatch:
    """One reader of a batch's answers."""

    __slots__ = ("changed", "ended", "has_missed")

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.ended: dict[int, Ended | AnswerRow] = {}
        """Position -> end, since the watch began, until taken."""
        self.has_missed = False
        """Some were not kept: the store has them."""

    def add(self, end: Ended) -> None:
        """A member ended."""
        if len(self.ended) < MAXIMUM_LIVE:
            self.ended[end.position] = end
        else:
            self.has_missed = True

    def touch(self) -> None:
        """The batch changed."""
        self.changed.set()


class ProgressWatch:
    """One who follows how far a batch is: it keeps no ends, however slowly it reads."""

    __slots__ = ("changed", "left")

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        """Only what cannot wait for the next look: the last end, and the server's stop."""
        self.left = math.inf
        """Ends that the batch was short of at the last look."""

    def add(self, end: Ended) -> None:
        """A member ended."""
        self.left -= 1

    def touch(self) -> None:
        """The batch changed."""
        if self.left <= 0:
            self.changed.set()


class TaskWatch:
    """One who waits for a task, in a `with` block: each single call is one."""

    __slots__ = ("_future", "_identifier", "_others")

    def __init__(
        self,
        others: dict[bytes, list[asyncio.Future[Ended | None]]],
        identifier: bytes,
        *,
        is_closed: bool,
    ) -> None:
        self._others = others
        self._identifier = identifier
        self._future: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        if is_closed:
            self._future.set_result(None)

    def __enter__(self) -> asyncio.Future[Ended | None]:
        self._others.setdefault(self._identifier, []).append(self._future)
        return self._future

    def __exit__(self, *_: object) -> None:
        waiters = self._others.get(self._identifier)
        if waiters is not None and self._future in waiters:
            waiters.remove(self._future)
            if not waiters:
                del self._others[self._identifier]


class Waiting:
    """All who wait at this server."""

    def __init__(self) -> None:
        self._tasks: dict[bytes, list[asyncio.Future[Ended | None]]] = {}
        self._batches: dict[int, list[BatchWatch | ProgressWatch]] = {}
        self._is_closed = False

    def publish(self, ended: Sequence[Ended]) -> None:
        """Tell those who wait for these."""
        if self._tasks:
            for end in ended:
                for future in self._tasks.pop(end.id, ()):
                    if not future.done():
                        future.set_result(end)
        if self._batches:
            self._tell_batches(ended)

    def _tell_batches(self, ended: Sequence[Ended]) -> None:
        touched: set[int] = set()
        for end in ended:
            if end.batch in self._batches:
                touched.add(end.batch)
                for watch in self._batches[end.batch]:
                    watch.add(end)
        for batch in touched:
            self.touch(batch)

    def touch(self, batch: int) -> None:
        """A batch changed: grew, or was closed."""
        for watch in self._batches.get(batch, ()):
            watch.touch()

    def touch_all(self, batches: Iterable[int]) -> None:
        """Several batches changed."""
        for batch in batches:
            self.touch(batch)

    def watched(self) -> tuple[Collection[bytes], Collection[int]]:
        """Tasks and batches that somebody waits for."""
        return self._tasks.keys(), self._batches.keys()

    def task(self, identifier: bytes) -> TaskWatch:
        """A future of the task's end; None when the server stops first."""
        return TaskWatch(self._tasks, identifier, is_closed=self._is_closed)

    @contextmanager
    def batch(self, batch: int) -> Iterator[BatchWatch]:
        """The ends of a batch's members from now on."""
        watch = BatchWatch()
        with self._watched(batch, watch):
            yield watch

    @contextmanager
    def progress(self, batch: int) -> Iterator[ProgressWatch]:
        """Whether a batch has come to its end."""
        watch = ProgressWatch()
        with self._watched(batch, watch):
            yield watch

    @contextmanager
    def _watched(self, batch: int, watch: BatchWatch | ProgressWatch) -> Iterator[None]:
        self._batches.setdefault(batch, []).append(watch)
        try:
            yield
        finally:
            self._batches[batch].remove(watch)
            if not self._batches[batch]:
                del self._batches[batch]

    @property
    def is_closed(self) -> bool:
        """The server stops: nobody should wait any more."""
        return self._is_closed

    def close(self) -> None:
        """Let everybody go."""
        self._is_closed = True
        for futures in self._tasks.values():
            for future in futures:
                if not future.done():
                    future.set_result(None)
        for watches in self._batches.values():
            for watch in watches:
                watch.changed.set()
