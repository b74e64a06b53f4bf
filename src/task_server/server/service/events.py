"""Following how far a batch or a task is: what changed, at most about once a second."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

from msgspec import Struct

from task_server.protocol.tasks import BatchView, Quantiles
from task_server.server.service import views
from task_server.server.state import State
from task_server.store.rows import BatchRow, TaskRow
from task_server.store.states import Encoding

TICK_SECONDS = 1.0
"""Between two looks, and between two checks of the reader's token."""
HEARTBEAT_SECONDS = 15.0
"""Proxies cut what is silent for long."""
COST_SHARE = 0.1
"""Of a reader's time that looks may take: the open tasks of a large batch are many to count."""
LONGEST_REST_SECONDS = 3.0
ETA_CHANGE = 0.05
"""A move of the ETA that is worth telling."""
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": still here\n\n"

MayGoOn = Callable[[], Awaitable[bool]]
"""Whether the reader may read on: a token can be revoked while it reads."""


class Shown(Struct):
    """How far it is."""

    mark: str
    """Equal marks: the same states. The same at every server, and after a restart."""
    body: bytes
    is_over: bool
    eta: Quantiles | None = None


Look = Callable[[], Awaitable[Shown | None]]
"""None: it is there no more."""
Wait = Callable[[float], Awaitable[object]]
"""Wait so many seconds, or less when it is over before."""


async def of_batch(
    state: State, row: BatchRow, owner: int | None, last: str, may_go_on: MayGoOn
) -> AsyncGenerator[bytes]:
    """Events of a batch until the closed batch is done; `last`: the mark that the reader has."""
    with state.waiting.progress(row.batch) as watch:

        async def look() -> Shown | None:
            now = await state.store.batch(row.id, owner)
            if now is None:
                return None
            if not now.is_open:
                watch.left = now.total - now.ended
            return batch_shown(now, await views.batch_view(state, now))

        async def wait(seconds: float) -> None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await watch.changed.wait()

        async with aclosing(_follow(state, look, wait, last, may_go_on)) as pieces:
            async for piece in pieces:
                yield piece


async def of_task(
    state: State, task: bytes, owner: int | None, last: str, may_go_on: MayGoOn
) -> AsyncGenerator[bytes]:
    """Events of a task until it has ended; `last`: the mark that the reader has."""
    with state.waiting.task(task) as ended:

        async def look() -> Shown | None:
            row = await state.store.task(task, owner)
            return None if row is None else task_shown(state, row)

        async def wait(seconds: float) -> None:
            await asyncio.wait((ended,), timeout=seconds)

        async with aclosing(_follow(state, look, wait, last, may_go_on)) as pieces:
            async for piece in pieces:
                yield piece


def batch_shown(row: BatchRow, view: BatchView) -> Shown:
    """A batch as its events tell it."""
    counts = ".".join(f"{count:x}" for count in view.counts.values())
    mark = f"{'o' if row.is_open else 'c'}.{row.expected or 0:x}.{counts}"
    is_over = not row.is_open and row.ended >= row.total
    return Shown(mark, views.encode(view), is_over, view.eta)


def task_shown(state: State, row: TaskRow) -> Shown:
    """A task as its events tell it: its view, without the answer."""
    if row.encoding is not Encoding.ERROR:
        row.outcome = None
    view = views.task_view(state, row)
    mark = f"{row.generation:x}.{row.attempt:x}.{view.state}.{view.phase or ''}"
    return Shown(mark, views.encode(view), row.state.is_terminal)


async def _follow(
    state: State, look: Look, wait: Wait, last: str, may_go_on: MayGoOn
) -> AsyncGenerator[bytes]:
    now = asyncio.get_running_loop().time
    yield RETRY
    told_at, eta = now(), None
    while not state.waiting.is_closed:
        began = now()
        shown = await look()
        if shown is None:
            return
        if shown.is_over or shown.mark != last or _has_moved(shown.eta, eta):
            yield _event(shown)
            told_at, last, eta = now(), shown.mark, shown.eta
        elif now() - told_at >= HEARTBEAT_SECONDS:
            yield HEARTBEAT
            told_at = now()
        rest = min((now() - began) / COST_SHARE, LONGEST_REST_SECONDS)
        if shown.is_over or not await _rest(wait, may_go_on, rest):
            return


async def _rest(wait: Wait, may_go_on: MayGoOn, seconds: float) -> bool:
    """Wait for the next look; False when the reader may not read on."""
    now = asyncio.get_running_loop().time
    end = now() + max(seconds, TICK_SECONDS)
    while (left := end - now()) > 0:
        tick = min(left, TICK_SECONDS)
        began = now()
        await wait(tick)
        if not await may_go_on():
            return False
        if now() - began < tick:
            return True
    return True


def _has_moved(eta: Quantiles | None, told: Quantiles | None) -> bool:
    if eta is None or told is None:
        return eta is not told
    return abs(eta.p50 - told.p50) > ETA_CHANGE * told.p50


def _event(shown: Shown) -> bytes:
    """In the form of server-sent events; JSON has no line ends."""
    name = b"done" if shown.is_over else b"progress"
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (shown.mark.encode(), name, shown.body)
