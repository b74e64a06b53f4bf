"""What is past its retention goes, a little at a time, and what nothing needs any more with it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from task_server.errors import RequestError
from task_server.server.state import State
from task_server.server.upkeep.collect import Collector
from task_server.store.records.retention import Pass

log = logging.getLogger(__name__)

PASS_SECONDS = 10.0
"""Between two passes over the ended tasks."""
TIDY_SECONDS = 60.0
"""Between two looks at what tasks left behind."""
PIECE = 500
"""Tasks purged in one transaction: some 5 ms of the writer's time."""
PIECES_A_MINUTE = 600
PAUSE_SHARE = 4.0
"""The pause after a step, of its time: purging takes at most a fifth of the writer, and less of a
busy one, where each step waits longer."""
SHORTEST_PAUSE = 0.02
LONGEST_PAUSE = 5.0
ROUNDS = 1000
"""Steps of one kind between two passes."""

T = TypeVar("T")


class Pruner:
    """Prunes where no other server does."""

    def __init__(
        self, state: State, *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        self._sleep = sleep
        self._state = state
        self._store = state.store
        self._collector = Collector(state)
        self._minute = 0.0
        self._pieces = 0

    async def run(self) -> None:
        """Prune until cancelled."""
        loop = asyncio.get_running_loop()
        tidied_at = loop.time()
        while True:
            await self._sleep(PASS_SECONDS)
            try:
                if not await self._store.leads():
                    continue
                await self.purge()
                if loop.time() - tidied_at >= TIDY_SECONDS:
                    await self.tidy()
                    tidied_at = loop.time()
            except RequestError as error:
                log.warning("pruning goes on later: %s", error)
            except Exception:
                log.exception("pruning failed; it goes on later")

    async def purge(self) -> int:
        """A pass over the ended tasks; how many were due."""
        state, total = self._state, 0
        at: Pass | None = await self._store.begin_pass(state.keep, now=state.clock())
        while at is not None:
            numbers, at = await self._paced(self._store.find_due(state.keep, at, now=state.clock()))
            for start in range(0, len(numbers), PIECE):
                await self._take_turn()
                piece = numbers[start : start + PIECE]
                total += await self._paced(self._store.purge(piece, state.keep, now=state.clock()))
        if total:
            log.info("purged %d tasks", total)
        return total

    async def tidy(self) -> None:
        """Remove what tasks left behind, and blobs that nothing needs; give room back."""
        state, store = self._state, self._store
        for _ in range(ROUNDS):
            if not await self._paced(store.remove_leftovers(state.keep, now=state.clock())):
                break
        for _ in range(ROUNDS):
            if not await self._paced(store.forget_unused(keep_seconds=state.keep.longest)):
                break
        await self._collector.collect()
        for _ in range(ROUNDS):
            if not await self._paced(store.give_back_space()):
                break

    async def _take_turn(self) -> None:
        """Wait for the next minute when this one's pieces are done."""
        loop = asyncio.get_running_loop()
        left = self._minute + 60.0 - loop.time()
        if left > 0 and self._pieces >= PIECES_A_MINUTE:
            await self._sleep(left)
            left = 0.0
        if left <= 0:
            self._minute, self._pieces = loop.time(), 0
        self._pieces += 1

    async def _paced(self, step: Awaitable[T]) -> T:
        """Do a step, and leave the writer to others for a while."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        result = await step
        pause = PAUSE_SHARE * (loop.time() - begun)
        await self._sleep(min(max(pause, SHORTEST_PAUSE), LONGEST_PAUSE))
        return result
