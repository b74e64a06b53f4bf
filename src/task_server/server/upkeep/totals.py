"""What was said that batches would cost, held against what they took, off the path of requests."""

from __future__ import annotations

import asyncio
import logging

from task_server.errors import Unavailable
from task_server.protocol.tasks import Estimate, Quantiles
from task_server.store.contract import Store
from task_server.store.kinds import FunctionKey
from task_server.store.records.totals import GUESSED, TASKS_A_READ, OpenTotal, ToldTotal

log = logging.getLogger(__name__)

PASS_SECONDS = 10.0
MAXIMUM_NOTED = 10_000
PIECE = 100
"""Written in one transaction."""
AT_ONCE = 20
"""Batches judged in one pass."""
PAUSE_SHARE = 4.0
"""The pause after a read, of its time: others come first."""


class Totals:
    """Batches whose total was told.

    What is lost of it, by a kill or because there is too much, is not judged.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted: list[ToldTotal] = []

    def note(self, batch: bytes, key: FunctionKey, told: Estimate) -> None:
        """A request's tasks, all of one function, went into a batch."""
        known = self._store.statistics(key)
        if known is None or len(self._noted) >= MAXIMUM_NOTED:
            return
        seconds = told.total.core_seconds
        if told.total.unknown_tasks:
            seconds = Quantiles(0.0, GUESSED, GUESSED)
        self._noted.append(ToldTotal(known.function, batch, seconds.p10, seconds.p50, seconds.p90))

    async def keep(self) -> None:
        """Write and judge until cancelled."""
        while True:
            await asyncio.sleep(PASS_SECONDS)
            try:
                await self.flush()
                if await self._store.leads():
                    await self.judge()
            except Unavailable as error:
                log.warning("batches are judged later: %s", error)
            except Exception:
                log.exception("judging batches failed; it goes on later")

    async def flush(self) -> None:
        """Write what was noted."""
        while self._noted:
            piece = self._noted[:PIECE]
            await self._store.note_totals(piece)
            del self._noted[: len(piece)]

    async def judge(self) -> None:
        """Add up what batches took that are done."""
        for total in await self._store.done_totals(limit=AT_ONCE):
            await self._judge(total)

    async def _judge(self, total: OpenTotal) -> None:
        if not total.is_whole:  # tasks failed, or are gone
            await self._store.judge_total(total, None)
            return
        seconds = 0.0
        for start in range(0, total.total, TASKS_A_READ):
            seconds += await self._piece(total.batch, start)
        await self._store.judge_total(total, seconds)

    async def _piece(self, batch: int, start: int) -> float:
        loop = asyncio.get_running_loop()
        began = loop.time()
        seconds = await self._store.run_seconds_of(batch, start=start)
        await asyncio.sleep(PAUSE_SHARE * (loop.time() - began))
        return seconds
