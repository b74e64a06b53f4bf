"""A proxy on a loopback port that does to requests and replies what networks do."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)
FIRST_SECONDS = 1.0
"""How long the reply to a copy that goes first is waited for: it may be a long poll."""


class Asked(NamedTuple):
    """A request that came by."""

    method: str
    path: str
    body: bytes


class Fault(Struct, frozen=True, kw_only=True):
    """What happens to one request and its reply; by default nothing."""

    loses_request: bool = False
    """The connection ends before the server hears of it."""
    half_closes: bool = False
    """The server is told that the client will send no more."""
    delay_seconds: float = 0.0
    """The reply comes later."""
    cut_after: int | None = None
    """The connection ends after so many bytes of the reply."""
    by_reset: bool = False
    """... with a reset, not a farewell."""
    copied_before: bool = False
    """The server gets a copy first; the reply to that is lost."""
    copied_after: float | None = None
    """The server gets a copy so many seconds later; the reply to that is lost."""


NOTHING = Fault()
Decide = Callable[[Asked], Fault]


class FaultyProxy:
    """Passes everything on; `decide` says what happens to a request, `partition` ends all traffic.

    It runs in a thread of its own, and `decide` is called there.
    """

    def __init__(self, url: str) -> None:
        self.url = ""
        self.decide: Decide = lambda asked: NOTHING
        self.faults = 0
        """How many requests something happened to."""
        self.copies = 0
        """How many copies are still under way."""
        self.reply_bytes = 0
        """Size of the reply that came last."""
        self._server = urlsplit(url)
        self._loop = asyncio.new_event_loop()
        self._passes = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # ---- what a test does

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        self.url = f"http://127.0.0.1:{port}"

    def partition(self) -> None:
        """From now on nothing arrives, on either side; nobody is told."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def heal(self) -> None:
        """Everything arrives again, also what was under way."""
        self._loop.call_soon_threadsafe(self._passes.set)

    def once(self, path: str, fault: Fault, *, method: str = "") -> None:
        """This happens to the next request whose path has `path` in it, and then nothing more."""

        def decide(asked: Asked) -> Fault:
            if path not in asked.path or method not in ("", asked.method):
                return NOTHING
            self.decide = lambda asked: NOTHING
            return fault

        self.decide = decide

    def stop(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- in the thread

    async def _listen(self) -> int:
        self._passes.set()
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1000)
        return int(self._listener.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()  # what is still to be written would keep it open
        closing = (writer.wait_closed() for writer in self._writers)
        await asyncio.wait_for(asyncio.gather(*closing, return_exceptions=True), 5)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        task = asyncio.ensure_future(_Link(self, reader, writer).run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def passes(self) -> None:
        """Wait until there is no partition."""
        await self._passes.wait()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to the server."""
        reader, writer = await asyncio.open_connection(self._server.hostname, self._server.port)
        self._writers.append(writer)
        return reader, writer

    def copy(self, request: bytes, seconds: float) -> asyncio.Task[None]:
        """Deliver a request once more, after so many seconds."""
        task = asyncio.ensure_future(self._copy(request, seconds))
        self.copies += 1
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _copy(self, request: bytes, seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            reader, writer = await self.connect()
            try:
                writer.write(request)
                await reader.read(1)
            finally:
                writer.close()
        except OSError:
            pass  # the server is away
        finally:
            self.copies -= 1


class _Link:
    """One connection of a client, and the one to the server that belongs to it."""

    def __init__(
        self, proxy: FaultyProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._proxy = proxy
        self._reader = reader
        self._writer = writer
        self._fault = NOTHING
        self._passed = 0
        """Bytes of the present reply."""

    async def run(self) -> None:
        """Pass requests and replies on until either side ends."""
        server = None
        try:
            await self._proxy.passes()
            reader, server = await self._proxy.connect()
            replies = asyncio.ensure_future(self._replies(reader))
            requests = asyncio.ensure_future(self._requests(server))
            try:
                both = (replies, requests)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass
        finally:
            self._writer.close()
            if server is not None:
                server.close()

    async def _requests(self, server: asyncio.StreamWriter) -> None:
        while True:
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            body = await self._reader.readexactly(int(length[1])) if length else b""
            method, path, _ = head.split(b" ", 2)
            await self._proxy.passes()
            fault = self._proxy.decide(Asked(method.decode(), path.decode(), body))
            self._proxy.faults += fault is not NOTHING
            if fault.loses_request:
                return
            self._fault, self._passed = fault, 0
            await self._deliver(head + body, fault, server)

    async def _deliver(self, request: bytes, fault: Fault, server: asyncio.StreamWriter) -> None:
        if fault.copied_before:
            await asyncio.wait((self._proxy.copy(request, 0.0),), timeout=FIRST_SECONDS)
        server.write(request)
        await server.drain()
        if fault.half_closes:
            server.write_eof()
        if fault.copied_after is not None:
            self._proxy.copy(request, fault.copied_after)

    async def _replies(self, server: asyncio.StreamReader) -> None:
        while data := await server.read(1 << 16):
            if not self._passed:
                await asyncio.sleep(self._fault.delay_seconds)
            await self._proxy.passes()
            limit = self._fault.cut_after
            if limit is not None and self._passed + len(data) > limit:
                self._writer.write(data[: limit - self._passed])
                self._end()
                return
            self._passed += len(data)
            self._proxy.reply_bytes = self._passed
            self._writer.write(data)
            await self._writer.drain()

    def _end(self) -> None:
        if self._fault.by_reset:
            connection: socket.socket = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


@contextmanager
def faulty_proxy(url: str) -> Iterator[FaultyProxy]:
    """A proxy to the server at `url` while the block runs."""
    proxy = FaultyProxy(url)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
