"""Every few seconds: leases that ran out, tasks that became due, tasks that started too late."""

from __future__ import annotations

import asyncio
import logging

from task_server.errors import Unavailable
from task_server.server.clock import Clock
from task_server.store.contract import Store

log = logging.getLogger(__name__)

SWEEP_SECONDS = 2.0


async def keep_expiring(store: Store, clock: Clock, *, interval: float) -> None:
    """Sweep until cancelled."""
    while True:
        await asyncio.sleep(interval)
        try:
            if clock.follow():
                log.warning("the clock was set: every lease gets a full new term")
                await store.extend_leases()
            await store.expire()
        except Unavailable as error:
            log.warning("a sweep failed, the next goes on: %s", error)
