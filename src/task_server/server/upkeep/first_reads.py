"""Which outcomes were read: noted in memory, and written a little later, many at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from task_server.errors import Unavailable
from task_server.store.contract import Store

log = logging.getLogger(__name__)

FLUSH_SECONDS = 30.0
MAXIMUM_NOTED = 200_000
PIECE = 1000
"""Written in one transaction."""
PAUSE_SHARE = 4.0
"""The pause after a transaction, of its time: others come first."""


class FirstReads:
    """Tasks whose outcome has been given to their owner.

    What is lost of it, by a kill or because there is too much, counts as unread: it is kept longer.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._noted: set[int] = set()

    def note(self, number: int) -> None:
        """A task's outcome goes out."""
        if len(self._noted) < MAXIMUM_NOTED:
            self._noted.add(number)

    async def keep(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            try:
                await self.flush()
            except Unavailable as error:
                log.warning("what was read is written later: %s", error)

    async def flush(self) -> None:
        """Write what was noted."""
        loop = asyncio.get_running_loop()
        noted = sorted(self._noted)
        for start in range(0, len(noted), PIECE):
            piece = noted[start : start + PIECE]
            begun = loop.time()
            await self._store.note_read(piece, now=self._clock())
            self._noted.difference_update(piece)
            await asyncio.sleep(PAUSE_SHARE * (loop.time() - begun))
