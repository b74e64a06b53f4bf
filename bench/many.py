"""Many connections at once, on raw sockets: the client's share of the processors is small."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

SECONDS = 60.0


def rate(url: str, token: str, path: str, body: bytes, *, connections: int, requests: int) -> float:
    """Requests a second: each connection sends its next one when a reply has come."""
    return asyncio.run(_rate(url, _request(url, token, path, body), connections, requests))


def _request(url: str, token: str, path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _rate(url: str, request: bytes, connections: int, requests: int) -> float:
    loop = asyncio.get_running_loop()
    host, _, port = urlsplit(url).netloc.rpartition(":")
    ended: asyncio.Future[None] = loop.create_future()
    work = _Work(request, requests, ended)
    opened = [
        await loop.create_connection(lambda: _Asker(work), host, int(port))
        for _ in range(connections)
    ]
    started = time.perf_counter()
    for _, asker in opened:
        asker.ask()
    async with asyncio.timeout(SECONDS):
        await ended
    took = time.perf_counter() - started
    for transport, _ in opened:
        transport.close()
    return requests / took


class _Work:
    """What is left to be asked, shared by all connections."""

    def __init__(self, request: bytes, requests: int, ended: asyncio.Future[None]) -> None:
        self.request = request
        self.to_ask = requests
        self.to_hear = requests
        self.ended = ended


class _Asker(asyncio.Protocol):
    """One connection."""

    def __init__(self, work: _Work) -> None:
        self._work = work
        self._heard = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        """Send the next request, if there is one."""
        if self._work.to_ask:
            self._work.to_ask -= 1
            self._transport.write(self._work.request)

    def data_received(self, data: bytes) -> None:
        self._heard += data
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if not end or len(body) < _content_length(head):
            return
        self._heard = b""
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
            self._fail(RuntimeError(f"refused: {head.decode()}"))
            return
        self._work.to_hear -= 1
        if not self._work.to_hear:
            self._work.ended.set_result(None)
        self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or RuntimeError("the server closed a connection"))

    def _fail(self, error: Exception) -> None:
        if not self._work.ended.done():
            self._work.ended.set_exception(error)


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0])
