"""Every few seconds: leases that ran out, tasks that became due, tasks that started too late."""

from __future__ import annotations

import asyncio
import logging

from task_server.errors import Unavailable
from task_server.server.clock import Clock
from task_server.store.contract import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0


class Expiry:
    """Sweeps a store, and tells it when the clock was set."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._set_by = 0.0
        """Seconds by which the clock was set and that the store does not know of yet."""

    async def keep(self, interval: float) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(interval)
            try:
                await self.sweep()
            except Unavailable as error:
                log.warning("a sweep failed, the next goes on: %s", error)

    async def sweep(self) -> None:
        """Do what is due; after the clock was set nothing before the leases have a new term."""
        jump = self._clock.follow()
        if jump:
            log.warning("the clock was set by %+.0f s: every lease gets a new term", jump)
        self._set_by += jump
        if self._set_by:
            await self._store.extend_leases(by=self._set_by)
            self._set_by = 0.0
        await self._store.expire()
