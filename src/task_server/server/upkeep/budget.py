"""The bytes that may be stored: once they are used up no new tasks come in. Nothing is evicted."""

from __future__ import annotations

import asyncio
import logging

from task_server.errors import StorageFull, Unavailable
from task_server.store.contract import Store

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
RETRY_SECONDS = 60.0
"""When a refused submit should be tried again."""
BACK_SHARE = 0.95
"""Of the budget: intake begins again below that."""


class Budget:
    """What is stored, as of the last look, and what came in since.

    Not exact: it counts the database's pages and each blob once, and between two looks the bytes
    of requests, as sent.
    """

    def __init__(self, limit_bytes: int | None, store: Store) -> None:
        """`limit_bytes` None: no limit."""
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.is_full = False
        self._store = store

    def check_intake(self) -> None:
        """Raise StorageFull while no new tasks are taken."""
        if self.is_full:
            raise StorageFull(
                f"the server's storage budget of {self.limit_bytes} bytes is used up: it takes no"
                " new tasks until others are past their retention; delete tasks that nobody needs,"
                " or raise --storage-bytes",
                retry_after=RETRY_SECONDS,
            )

    def add(self, size_bytes: int) -> None:
        """So much came in."""
        self.used_bytes += size_bytes
        if self.limit_bytes is not None and self.used_bytes >= self.limit_bytes:
            self._set_full(True)

    async def keep(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self.measure()
            except Unavailable as error:
                log.warning("cannot see how much is stored: %s", error)

    async def measure(self) -> None:
        """See what is stored, and decide."""
        if self.limit_bytes is None:
            return
        self.used_bytes = await self._store.stored_bytes()
        bound = self.limit_bytes * (BACK_SHARE if self.is_full else 1.0)
        self._set_full(self.used_bytes >= bound)

    def _set_full(self, is_full: bool) -> None:
        if is_full and not self.is_full:
            log.warning("the storage budget is used up (%d bytes): no new tasks", self.used_bytes)
        elif self.is_full and not is_full:
            log.info("%d bytes stored: new tasks are taken again", self.used_bytes)
        self.is_full = is_full
