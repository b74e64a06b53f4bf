"""Thousands of connections from one process: each sends a request and keeps what comes back."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

AT_ONCE = 200
"""Connections that are being made at the same time."""
SPARE_DESCRIPTORS = 500


def request(path: str, token: str) -> bytes:
    """A GET that keeps its connection."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )


class Waiter(asyncio.Protocol):
    """One client."""

    def __init__(self, sent: bytes) -> None:
        self.received = b""
        self.is_closed = False
        self.transport: asyncio.Transport | None = None
        self._sent = sent

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._sent)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True

    @property
    def status(self) -> int:
        """Of the reply; 0 while none has come."""
        return int(self.received[9:12]) if self.received else 0

    def close(self) -> None:
        """Go away."""
        if self.transport is not None:
            self.transport.close()


class Crowd:
    """Clients of one server, by number."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._host, self._port = str(address.hostname), int(address.port or 80)
        self.waiters: list[Waiter] = []

    async def send(self, requests: Sequence[bytes], *, until_there: bool = False) -> None:
        """Connect once for each request and send it.

        Who cannot connect is lost, or tries again and again `until_there` is a server.
        """
        coming = [Waiter(sent) for sent in requests]
        self.waiters += coming
        gate = asyncio.Semaphore(len(coming) if until_there else AT_ONCE)
        await asyncio.gather(*(self._connect(each, gate, until_there) for each in coming))

    async def _connect(self, waiter: Waiter, gate: asyncio.Semaphore, until_there: bool) -> None:
        loop = asyncio.get_running_loop()
        async with gate:
            while not waiter.is_closed:
                try:
                    await loop.create_connection(lambda: waiter, self._host, self._port)
                    return
                except OSError:
                    waiter.is_closed = not until_there
                    await asyncio.sleep(0.05)

    def answered(self) -> list[Waiter]:
        """Those to whom something came."""
        return [each for each in self.waiters if each.received]

    def lost(self) -> list[Waiter]:
        """Those whose connection has ended."""
        return [each for each in self.waiters if each.is_closed]

    async def leave(self) -> None:
        """All go away."""
        for each in self.waiters:
            each.close()
        while len(self.lost()) < len(self.waiters):  # noqa: ASYNC110  (many are waited for)
            await asyncio.sleep(0.01)


@contextmanager
def descriptors_for(connections: int, process: int) -> Iterator[int]:
    """Let this process and another have so many connections, or as many as the system permits.

    Gives that number.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_DESCRIPTORS
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, soft), hard))
    resource.prlimit(process, resource.RLIMIT_NOFILE, (max(limit, soft), hard))
    try:
        yield min(connections, limit - SPARE_DESCRIPTORS)
    finally:
        with contextlib.suppress(ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
