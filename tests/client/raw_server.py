"""A server that says exact bytes, for tests of how replies are read."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine"


class Link:
    """One connection of a client."""

    def __init__(self, server: RawServer, reader: asyncio.StreamReader) -> None:
        server.connections += 1
        self.number = server.connections
        """1 for the first."""
        self.reader = reader
        self._server = server
        self._writer: asyncio.StreamWriter

    async def hear(self) -> bytes:
        """The next request, head and body; it is among the server's `requests` then."""
        head = await self.hear_head()
        _, has_length, rest = head.partition(b"Content-Length: ")
        body = await self.reader.readexactly(int(rest.split()[0])) if has_length else b""
        self._server.requests[-1] = head + body
        return head + body

    async def hear_head(self) -> bytes:
        """The next request's head; its body is left unread."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        self._server.requests.append(head)
        return head

    async def say(self, data: bytes) -> None:
        """Send."""
        self._writer.write(data)
        await self._writer.drain()

    def hang_up(self) -> None:
        """Close."""
        self._writer.close()

    def reset(self) -> None:
        """Close as a process that dies with unread bytes does."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


Talk = Callable[[Link], Awaitable[None]]


class RawServer:
    """Does on each connection what `talk` says."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.url = ""
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self._talks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection; what breaks it ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        link = Link(self, reader)
        link._writer = writer
        with suppress(OSError, EOFError, asyncio.CancelledError):
            await self.talk(link)
        self._talks.discard(task)
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async def stop(self) -> None:
        """End all talks."""
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)


async def silent(link: Link) -> None:
    """Hear a request, and never answer."""
    await link.hear()
    await asyncio.Event().wait()


async def always_fine(link: Link) -> None:
    """Answer each request."""
    while True:
        await link.hear()
        await link.say(OK)


def says(*replies: bytes) -> Talk:
    """Answer a request with each of these, on any connection, then hang up."""
    left = list(replies)

    async def talk(link: Link) -> None:
        while left:
            await link.hear()
            await link.say(left.pop(0))

    return talk


@asynccontextmanager
async def raw_server(
    talk: Talk = always_fine, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """A server while the block runs."""
    server = RawServer(talk)
    listening = await asyncio.start_server(server.serve, host, 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    server.url = (
        f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{server.port}"
    )
    try:
        yield server
    finally:
        listening.close()
        await server.stop()


async def until(happened: Callable[[], bool]) -> None:
    """Wait until it is true."""
    async with asyncio.timeout(10):
        while not happened():  # noqa: ASYNC110  # what a test waits for is told in many ways
            await asyncio.sleep(0.005)
