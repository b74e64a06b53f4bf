"""A TCP port of its own in front of one or several servers, where the network can fail."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

Address = tuple[str, int]
PIECE = 1 << 16


class TcpProxy:
    """Gives each connection to the next server that takes it, as a load balancer does.

    It runs in a thread of its own.
    """

    def __init__(self, servers: Sequence[Address]) -> None:
        self.port = 0
        self.servers = list(servers)
        self.accepted = 0
        """How many connections came."""
        self._turn = 0
        self._passes = asyncio.Event()
        self._passes.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    # ---- what a test does

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def partition(self) -> None:
        """From now on nothing arrives, on either side; nobody is told."""
        self._loop.call_soon_threadsafe(self._passes.clear)

    def heal(self) -> None:
        """Everything arrives again, also what was under way."""
        self._loop.call_soon_threadsafe(self._passes.set)

    def stop(self) -> None:
        """End all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # ---- in the thread

    async def _listen(self) -> int:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1000)
        return int(self._listener.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.ensure_future(self._link(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._passes.wait()
            there, server = await self._connect()
        except OSError:
            writer.close()
            return
        ways = [
            asyncio.ensure_future(self._pass_on(reader, server)),
            asyncio.ensure_future(self._pass_on(there, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.close()
            server.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        error = OSError("there is no server")
        for _ in self.servers:
            self._turn += 1
            host, port = self.servers[self._turn % len(self.servers)]
            try:
                return await asyncio.open_connection(host, port)
            except OSError as refused:
                error = refused
        raise error

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(PIECE):
                await self._passes.wait()
                writer.write(data)
                await writer.drain()


@contextmanager
def tcp_proxy(*servers: Address) -> Iterator[TcpProxy]:
    """A proxy while the block runs."""
    proxy = TcpProxy(servers)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
