"""One connection of many, on a raw socket: the client's share of the processors is small."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

Heard = Callable[[bytes], None]
"""Takes the body of a reply."""
Failed = Callable[[Exception], None]


class Wire(asyncio.Protocol):
    """Sends a request, hears its reply, and only then takes the next."""

    def __init__(self, failed: Failed) -> None:
        self._failed = failed
        self._heard: Heard | None = None
        self._received = b""
        self._needed = 0
        """Bytes that the reply under way has at least."""

    def ask(self, request: bytes, heard: Heard) -> None:
        """Send it; `heard` is called once."""
        assert self._heard is None
        self._heard = heard
        self._transport.write(request)

    def close(self) -> None:
        """Hear nothing more."""
        self._failed = _nothing
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        if len(self._received) < self._needed:
            return
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = content_length(head)
        if len(body) < length:
            self._needed = len(head) + len(end) + length
            return
        self._received, self._needed = b"", 0
        heard, self._heard = self._heard, None
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
            self._failed(RuntimeError(f"refused: {(head + end + body).decode()}"))
        elif heard is not None:
            heard(body)

    def connection_lost(self, error: Exception | None) -> None:
        self._failed(error or RuntimeError("the server closed a connection"))


async def connect(url: str, failed: Failed) -> Wire:
    """A connection to a server; `failed` hears what goes wrong on it."""
    host, _, port = urlsplit(url).netloc.rpartition(":")
    loop = asyncio.get_running_loop()
    _, wire = await loop.create_connection(lambda: Wire(failed), host, int(port))
    return wire


def get(url: str, token: str, path: str) -> bytes:
    """A request without a body."""
    return f"GET {path} {_common(url, token)}\r\n".encode()


def post(url: str, token: str, path: str, body: bytes) -> bytes:
    """A request with JSON."""
    head = f"POST {path} {_common(url, token)}Content-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def put(url: str, token: str, path: str, size_bytes: int) -> bytes:
    """The head of a request with so many bytes."""
    head = f"PUT {path} {_common(url, token)}Content-Type: application/octet-stream\r\n"
    return f"{head}Content-Length: {size_bytes}\r\n\r\n".encode()


def _common(url: str, token: str) -> str:
    return f"HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nAuthorization: Bearer {token}\r\n"


def content_length(head: bytes) -> int:
    """The length that a reply's head states."""
    _, _, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0])


def _nothing(error: Exception) -> None:
    pass
