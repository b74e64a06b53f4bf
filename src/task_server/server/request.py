"""A request: its head, and its body as it comes. A connection fills it, an endpoint reads it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence


class Disconnected(Exception):
    """The caller went away."""


class Departure:
    """Whether a connection's client has gone, told to all who serve it."""

    __slots__ = ("_listeners", "has_happened")

    def __init__(self) -> None:
        self.has_happened = False
        self._listeners: list[Callable[[], object]] = []

    def happen(self) -> None:
        """The client has gone."""
        self.has_happened = True
        for listener in tuple(self._listeners):
            listener()

    def tell(self, listener: Callable[[], object]) -> None:
        """Call `listener` when the client goes, until `forget`."""
        self._listeners.append(listener)

    def forget(self, listener: Callable[[], object]) -> None:
        """Who listens has what it waited for."""
        self._listeners.remove(listener)


class Request:
    """What came in.

    `on_read` is called when all that came of its body is read, and more is to come.
    """

    __slots__ = (
        "_is_dropped",
        "_least",
        "_news",
        "_pieces",
        "awaits_continue",
        "departure",
        "fields",
        "is_whole",
        "keeps_alive",
        "method",
        "on_read",
        "path",
        "query",
        "repeated",
        "version",
        "waiting_bytes",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        fields: Mapping[bytes, bytes] | None = None,
        repeated: Sequence[tuple[bytes, bytes]] = (),
        *,
        departure: Departure | None = None,
        on_read: Callable[[], object] | None = None,
        version: str = "1.1",
        keeps_alive: bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.fields = {} if fields is None else fields
        """The first header of each name (lower case)."""
        self.repeated = repeated
        """The others."""
        self.departure = departure or Departure()
        self.version = version
        self.keeps_alive = keeps_alive
        """Whether the connection stays after the reply."""
        self.awaits_continue = self.fields.get(b"expect", b"").lower() == b"100-continue"
        """Whether its client sends the body once it hears that it may."""
        self.is_whole = False
        """Whether the last of its body has come."""
        self.waiting_bytes = 0
        """Of the body, come and not read."""
        self._pieces: list[bytes] = []
        self._least = 1
        """Bytes that the reader waits for."""
        self._is_dropped = False
        self._news: asyncio.Future[None] | None = None
        self.on_read = on_read

    def only(self, name: bytes) -> bytes | None:
        """The header of that name, None unless there is exactly one."""
        value = self.fields.get(name)
        if self.repeated and any(other == name for other, _ in self.repeated):
            return None
        return value

    def add(self, piece: bytes) -> None:
        """More of the body came."""
        if self._is_dropped:
            return
        self._pieces.append(piece)
        self.waiting_bytes += len(piece)
        if self.waiting_bytes >= self._least:
            self._wake()

    def complete(self) -> None:
        """The body has come."""
        self.is_whole = True
        self._wake()

    def drop(self) -> None:
        """Nobody reads any more of it."""
        self._is_dropped = True
        self._pieces.clear()
        self.waiting_bytes = 0

    async def read(self, least: int = 1) -> tuple[bytes, bool]:
        """What came of the body since it was read last, and whether there is more.

        Waits until there are `least` bytes, or the end. Raises Disconnected.
        """
        if self.waiting_bytes < least and not self.is_whole:
            self._least = least
            await self._arrival()
        if self.departure.has_happened:
            raise Disconnected
        pieces, self._pieces = self._pieces, []
        self.waiting_bytes = 0
        has_more = not self.is_whole
        if has_more and self.on_read is not None:
            self.on_read()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), has_more

    async def _arrival(self) -> None:
        if self.departure.has_happened:
            return
        self._news = asyncio.get_running_loop().create_future()
        self.departure.tell(self._wake)
        try:
            if self.on_read is not None:
                self.on_read()
            await self._news
        finally:
            self._news = None
            self.departure.forget(self._wake)

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
