"""Each second: which environments workers are to have ready now."""

from __future__ import annotations

import asyncio
import logging

from task_server.errors import Unavailable
from task_server.server.state import State

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


async def keep_orders(state: State) -> None:
    """Look until cancelled. Every server does: workers are told by the one that they speak to."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            await state.orders.look(state.clock())
        except Unavailable as error:
            log.warning("environments are ordered later: %s", error)
