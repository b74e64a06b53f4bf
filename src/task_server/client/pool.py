"""Kept connections to one server."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from task_server.client.address import CONNECT_SECONDS, IDLE_SECONDS, Address
from task_server.client.connection import Connection

if TYPE_CHECKING:
    import ssl


class Pool:
    """At most `most` connections at a time; who wants more waits."""

    def __init__(self, address: Address, *, most: int, tls: ssl.SSLContext | None) -> None:
        self._address = address
        self._most = most
        self._tls = tls
        self._open: set[Connection] = set()
        self._opening = 0
        self._idle: list[Connection] = []
        """The one used last is the last."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_closed = False

    def kept(self) -> Connection | None:
        """A connection that is there and idle. Whatever is taken is to be given back."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open() and time.monotonic() - connection.idle_since < IDLE_SECONDS:
                return connection
            self._drop(connection)
        return None

    async def take(self) -> Connection:
        """A connection, a new one if need be. Raises OSError when there is none to be had."""
        while not self._is_closed:
            kept = self.kept()
            if kept is not None:
                return kept
            if len(self._open) + self._opening < self._most:
                return await self._add()
            await self._turn()
        raise ConnectionAbortedError("the transport is closed")

    def give_back(self, connection: Connection) -> None:
        """It is done with: keep it, unless nothing more can be sent on it."""
        if connection.finish() and not self._is_closed:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)
        else:
            self._drop(connection)
        self._call_next()

    def drop_idle(self) -> None:
        """Close all that are not in use."""
        while self._idle:
            self._drop(self._idle.pop())

    def close(self) -> None:
        """Close all; requests under way fail."""
        self._is_closed = True
        self._idle.clear()
        for connection in list(self._open):
            self._drop(connection)
        while self._waiting:
            self._call_next()

    async def _add(self) -> Connection:
        self._opening += 1
        try:
            connection = await _connect(self._address, self._tls)
        except BaseException:
            self._call_next()
            raise
        finally:
            self._opening -= 1
        self._open.add(connection)
        if not self._is_closed and connection.is_open():
            return connection
        self._drop(connection)
        self._call_next()
        raise ConnectionResetError("the connection was closed at once")

    async def _turn(self) -> None:
        """Wait until there may be a connection, or room for one."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self._call_next()  # it came, but nobody is here to take it
            raise

    def _call_next(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.abort()


async def _connect(address: Address, tls: ssl.SSLContext | None) -> Connection:
    """A new connection, to the first of a host's addresses that takes one."""
    loop = asyncio.get_running_loop()
    host, port, *_ = address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    failure: OSError = ConnectionError(f"{host} has no address")
    for family, *_, place in found:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, connection = await loop.create_connection(
                    lambda: Connection(loop),
                    str(place[0]),
                    port,
                    family=family,
                    ssl=tls,
                    server_hostname=host if tls else None,
                )
                return connection
        except OSError as error:
            failure = error
    raise failure
