"""Following a batch: what its members came to, each once, in order or as they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from task_server.protocol import ids
from task_server.server.service.views import answer_line
from task_server.server.state import State
from task_server.server.waiting import MAXIMUM_LIVE, BatchWatch
from task_server.store.rows import AnswerRow, BatchRow, Ended

OnRead = Callable[[Sequence[Ended | AnswerRow]], None]
"""Hears of outcomes as they go out."""
LOOK_SECONDS = 30.0
"""How long to wait for a member before looking whether it is purged."""
PIECE = 1000
"""Rows in one read and lines in one piece."""


def _now() -> float:
    return asyncio.get_running_loop().time()


async def in_order(
    state: State,
    row: BatchRow,
    owner: int | None,
    start: int,
    seconds: float,
    on_read: OnRead,
) -> AsyncGenerator[bytes]:
    """Lines by position from `start` on; a line's cursor is the position after it.

    Members past their retention are passed over.
    """
    position = start
    read_to: int | None = start
    deadline = _now() + seconds
    with state.waiting.batch(row.batch) as watch:
        while True:
            watch.changed.clear()
            if watch.has_missed:
                watch.has_missed, read_to = False, position
            found = _live_in_order(watch, position)
            if found:
                position += len(found)
                on_read(found)
                texts = ids.to_texts([end.id for end in found])
                yield b"".join(
                    [
                        answer_line(end, f"{end.position + 1:x}", text)
                        for end, text in zip(found, texts, strict=True)
                    ]
                )
            elif read_to is not None and len(watch.ended) < MAXIMUM_LIVE:
                read_to = await _read_on(state, row, watch, read_to)
            else:
                following = await _go_on(state, row, owner, watch, position, deadline)
                if following is None:
                    return
                position = following


async def _go_on(
    state: State,
    row: BatchRow,
    owner: int | None,
    watch: BatchWatch,
    position: int,
    deadline: float,
) -> int | None:
    """Where to go on when nothing is there to tell: perhaps after a wait. None: no more comes."""
    behind = await _behind_purged(state, row, position)
    if behind > position:
        return behind
    if await _is_over(state, row, owner, position):
        return None
    await _wait(state, watch, min(deadline, _now() + LOOK_SECONDS))
    if watch.changed.is_set() and not state.waiting.is_closed:
        return position
    is_late = _now() >= deadline or not await _look_again(state, row, owner)
    return None if is_late else position


async def _read_on(state: State, row: BatchRow, watch: BatchWatch, start: int) -> int | None:
    """Take ends that came before the watch; gives where to read on, None when all are taken."""
    rows = await state.store.answers_in_order(row.batch, start, PIECE)
    for each in rows:
        watch.ended.setdefault(each.position, each)
    return rows[-1].position + 1 if len(rows) == PIECE else None


async def _look_again(state: State, row: BatchRow, owner: int | None) -> bool:
    """See what became of the batch while nothing was told; False when nobody should wait on."""
    now = None if state.waiting.is_closed else await state.store.batch(row.id, owner)
    if now is not None:
        row.total, row.purged = now.total, now.purged
    return now is not None


async def _behind_purged(state: State, row: BatchRow, position: int) -> int:
    """The first position from this one on that is not purged."""
    if not row.purged:
        return position
    following = await state.store.next_position(row.batch, position)
    return max(row.total, position) if following is None else following


def _live_in_order(watch: BatchWatch, position: int) -> list[Ended | AnswerRow]:
    found: list[Ended | AnswerRow] = []
    while len(found) < PIECE and position in watch.ended:
        found.append(watch.ended.pop(position))
        position += 1
    return found


class Places:
    """How far a reader is: server -> the last place read of those that it ended."""

    def __init__(self, text: str = "") -> None:
        self.by_server: dict[int, int] = {}
        for pair in text.split(",") if text else ():
            server, n = pair.split(".")
            self.by_server[int(server, 16)] = int(n, 16)

    def has_passed(self, end: Ended | AnswerRow) -> bool:
        """Whether this end was read."""
        return end.n <= self.by_server.get(end.server, 0)

    def line(self, end: Ended | AnswerRow) -> bytes:
        """Pass an end; gives its line, whose cursor is this place."""
        self.by_server[end.server] = end.n
        pairs = (f"{server:x}.{n:x}" for server, n in sorted(self.by_server.items()))
        return answer_line(end, ",".join(pairs))


async def as_ended(
    state: State,
    row: BatchRow,
    owner: int | None,
    places: Places,
    seconds: float,
    on_read: OnRead,
) -> AsyncGenerator[bytes]:
    """Lines in the order of ends, after `places`; a line's cursor is its own place."""
    deadline = _now() + seconds
    with state.waiting.batch(row.batch) as watch:
        is_read = False
        while True:
            watch.changed.clear()
            found: Sequence[Ended | AnswerRow] = []
            if watch.has_missed or not is_read:
                watch.has_missed = False
                found = await state.store.answers_as_ended(row.batch, places.by_server, PIECE)
                is_read = len(found) < PIECE
            if is_read and not found:
                found = _live_as_ended(watch, places)
            if found:
                on_read(found)
                yield b"".join([places.line(end) for end in found])
            elif await _all_ended(state, row, owner):
                last = await state.store.answers_as_ended(row.batch, places.by_server, PIECE)
                if not last:
                    return
                is_read = False  # the commit that ended them came before its news
            elif not await _wait(state, watch, deadline):
                return


def _live_as_ended(watch: BatchWatch, places: Places) -> list[Ended | AnswerRow]:
    found = sorted(watch.ended.values(), key=lambda end: (end.server, end.n))
    watch.ended.clear()
    return [end for end in found if not places.has_passed(end)]


async def _is_over(state: State, row: BatchRow, owner: int | None, position: int) -> bool:
    if position < row.total:
        return False
    now = await state.store.batch(row.id, owner)
    if now is not None:
        row.total = now.total
    return now is None or (not now.is_open and position >= now.total)


async def _all_ended(state: State, row: BatchRow, owner: int | None) -> bool:
    """Whether the batch is done."""
    now = await state.store.batch(row.id, owner)
    return now is None or (not now.is_open and now.ended >= now.total)


async def _wait(state: State, watch: BatchWatch, deadline: float) -> bool:
    """Wait for news; False when time is up or the server stops."""
    left = deadline - _now()
    if left <= 0 or state.waiting.is_closed:
        return False
    if not watch.changed.is_set():
        waiter = asyncio.ensure_future(watch.changed.wait())
        try:
            await asyncio.wait((waiter,), timeout=left)
        finally:
            waiter.cancel()
    return True
