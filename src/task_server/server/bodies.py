"""How many bytes of request bodies are in memory at once: more wait a little, then come back."""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Struct

from task_server.errors import Unavailable

FREE_BYTES = 1 << 18
"""Smaller bodies are not counted: connections are bounded, and so are they."""
WAIT_SECONDS = 10.0
RETRY_SECONDS = 2.0
FULL = "the server holds as many large requests as it may; try again in a moment"


class _Waiter(Struct, eq=False):
    size_bytes: int
    own_bytes: int
    """What it holds already."""
    admitted: asyncio.Future[None]


class Bodies:
    """Room for `limit_bytes`, given first come, first served; one body alone always has room."""

    def __init__(self, limit_bytes: int, *, wait_seconds: float = WAIT_SECONDS) -> None:
        self._limit_bytes = limit_bytes
        self._wait_seconds = wait_seconds
        self._waiting: deque[_Waiter] = deque()
        self.held_bytes = 0

    async def take(self, size_bytes: int, *, own_bytes: int = 0) -> None:
        """Have room for so many bytes, beside `own_bytes` taken before, until they are given back.

        Waits until there is. Raises Unavailable when that takes too long.
        """
        waiter = _Waiter(size_bytes, own_bytes, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._admit()
        if waiter.admitted.done():
            return
        try:
            await asyncio.wait((waiter.admitted,), timeout=self._wait_seconds)
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        if not waiter.admitted.done():
            self._leave(waiter)
            raise Unavailable(FULL, retry_after=RETRY_SECONDS)

    def give_back(self, size_bytes: int) -> None:
        """These bytes are no longer held."""
        self.held_bytes -= size_bytes
        self._admit()

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.admitted.done():
            self.give_back(waiter.size_bytes)
        else:
            self._waiting.remove(waiter)
            self._admit()  # it may have been in the way of smaller ones

    def _admit(self) -> None:
        while self._waiting and self._fits(self._waiting[0]):
            waiter = self._waiting.popleft()
            self.held_bytes += waiter.size_bytes
            waiter.admitted.set_result(None)

    def _fits(self, waiter: _Waiter) -> bool:
        is_alone = self.held_bytes == waiter.own_bytes
        return is_alone or self.held_bytes + waiter.size_bytes <= self._limit_bytes
