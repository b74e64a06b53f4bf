"""Many connections at once, each with one request after another."""

from __future__ import annotations

import asyncio
import time

from bench import wire
from bench.bed import Bed
from bench.wire import Wire

SECONDS = 60.0


def rate(bed: Bed, path: str, body: bytes, *, connections: int, requests: int) -> float:
    """Requests a second: each connection sends its next one when a reply has come."""
    return asyncio.run(_rate(bed, path, body, connections, requests))


async def _rate(bed: Bed, path: str, body: bytes, connections: int, requests: int) -> float:
    work = _Work(requests, asyncio.get_running_loop().create_future())
    askers = []
    for number in range(connections):
        url = bed.urls[number % len(bed.urls)]
        request = wire.post(url, bed.token, path, body)
        askers.append(_Asker(work, await wire.connect(url, work.fail), request))
    started = time.perf_counter()
    for asker in askers:
        asker.ask()
    async with asyncio.timeout(SECONDS):
        await work.ended
    took = time.perf_counter() - started
    for asker in askers:
        asker.wire.close()
    return requests / took


class _Work:
    """What is left to be asked, shared by all connections."""

    def __init__(self, requests: int, ended: asyncio.Future[None]) -> None:
        self.to_ask = requests
        self.to_hear = requests
        self.ended = ended

    def fail(self, error: Exception) -> None:
        """A connection broke, or was refused something."""
        if not self.ended.done():
            self.ended.set_exception(error)


class _Asker:
    """One connection's share of the work."""

    def __init__(self, work: _Work, wire: Wire, request: bytes) -> None:
        self.wire = wire
        self._work = work
        self._request = request

    def ask(self) -> None:
        """Send the next request, if there is one."""
        if self._work.to_ask:
            self._work.to_ask -= 1
            self.wire.ask(self._request, self._hear)

    def _hear(self, body: bytes) -> None:
        self._work.to_hear -= 1
        if not self._work.to_hear:
            self._work.ended.set_result(None)
        self.ask()
