"""What was told of batches of late, so that each look does not cost the model's time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from task_server.protocol.tasks import Quantiles
from task_server.scheduling.progress import Look, Pace, later
from task_server.store.rows import BatchRow

FRESH_SECONDS = 1.0
"""For how long one is not worked out anew, at most."""
FRESH_PART = 0.1
"""Of the ETA: what is done in a second has to be looked at more often."""
LEAST_FRESH_SECONDS = 0.1
FRESH_SHARE = 0.01
"""Of a batch's calls have to end before."""
OLD_SECONDS = 15.0
"""Then it is, whatever has ended."""
PATIENCE_SECONDS = 0.5
"""How long who asks waits for it."""
REST = 4.0
"""Nothing is worked out for so many times as long as the last one took."""
MAXIMUM_BATCHES = 256


class Left(Struct):
    """What is left of a batch, as of a moment."""

    at: float
    ended: int
    """Members that had ended then."""
    core_seconds: Quantiles
    eta: Quantiles | None
    """As predicted, before the batch's own pace."""
    look: Look | None = None
    """What was seen then; None: nothing to hold against what comes."""
    pace: Pace = Pace()


Work = Callable[[Left | None], Awaitable[Left | None]]
"""Works out what is left of a batch, given what was worked out before."""


class BatchEtas:
    """By batch; `clock` gives Unix seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._found: dict[int, Left] = {}
        self._working: dict[int, asyncio.Task[None]] = {}
        self._rest_until = 0.0

    async def left(self, row: BatchRow, work_out: Work) -> Left | None:
        """What is left of a batch; None: that cannot be told, or not so soon."""
        now = self._clock()
        found = self._found.get(row.batch)
        if found is None or _is_stale(found, row, now):
            work = self._working.get(row.batch)
            if work is None and now >= self._rest_until:
                work = asyncio.ensure_future(self._work(row.batch, work_out))
                self._working[row.batch] = work
            if work is not None:
                await asyncio.wait((work,), timeout=PATIENCE_SECONDS)
            found = self._found.get(row.batch)
        return None if found is None else _as_of(found, row, self._clock())

    async def _work(self, batch: int, work_out: Work) -> None:
        began = self._clock()
        try:
            found = await work_out(self._found.get(batch))
            self._found.pop(batch, None)
            if found is not None:
                self._found[batch] = found  # at the end: those asked for last stay
                if len(self._found) > MAXIMUM_BATCHES:
                    del self._found[next(iter(self._found))]
        finally:
            del self._working[batch]
            now = self._clock()
            self._rest_until = now + REST * max(now - began, 0.0)


def _is_stale(found: Left, row: BatchRow, now: float) -> bool:
    age = now - found.at
    if not 0.0 <= age <= OLD_SECONDS:
        return True
    if not found.ended and row.ended:  # from here on the batch's own pace can be seen
        return age >= LEAST_FRESH_SECONDS
    soon = FRESH_SECONDS if found.eta is None else FRESH_PART * found.eta.p50
    is_old = age >= min(max(soon, LEAST_FRESH_SECONDS), FRESH_SECONDS)
    return is_old and row.ended - found.ended >= max(FRESH_SHARE * row.total, 1.0)


def _as_of(found: Left, row: BatchRow, now: float) -> Left:
    """The same a moment later."""
    eta, passed = found.eta, max(now - found.at, 0.0)
    if eta is None:
        return found
    if found.look is not None:
        told = later(eta, found.look, found.pace, at=now, ended=row.ended, total=row.total)
    else:
        left = (max(seconds - passed, seconds / 20) for seconds in (eta.p10, eta.p50, eta.p90))
        told = found.pace.corrected(Quantiles(*left))
    return msgspec.structs.replace(found, eta=told)
