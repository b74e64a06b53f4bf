"""One connection: a request goes out, its reply comes in."""

from __future__ import annotations

import asyncio
from typing import cast

from task_server.client.replies import BadReply, ReplyReader
from task_server.client.requests import Reply

JOINED_BYTES = 64 * 1024
"""A body up to this size is copied behind its head, to go out in one write."""
AHEAD_BYTES = 1 << 20
"""Of a reply's body that nobody takes: then its server has to wait."""


class Unanswered(ConnectionError):
    """The connection ended before any byte of a reply came."""


class Connection(asyncio.Protocol):
    """Carries one request at a time, while it is open.

    Its methods raise OSError or BadReply where no whole reply came. It is closed then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.idle_since = 0.0
        """For the pool: when the last request was done with."""
        self._loop = loop
        self._transport: asyncio.Transport
        self._is_idle = True
        self._reply = ReplyReader(bodiless=False)
        """Of the request under way, else of the last."""
        self._is_streamed = False
        """Whether what comes is taken at once, before the reply is whole."""
        self._is_full = False
        """Whether what was written piles up."""
        self._unsent = 0
        """Bytes of the body that are still to be given to `send`."""
        self._news: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        """Why it is closed."""

    # ---- a whole reply

    async def ask(self, head: bytes, body: bytes, *, bodiless: bool, until: float) -> Reply:
        """Send, and read the whole reply before that moment of the loop's clock."""
        self._is_idle = self._is_streamed = False
        reply = self._reply = ReplyReader(bodiless=bodiless)
        if len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)
        await self._wait(until)
        return Reply(reply.status, reply.headers, b"".join(reply.pieces))

    # ---- a reply, or a body, piece by piece; `silence`: seconds that may pass without news

    def begin(self, head: bytes, body_bytes: int = 0) -> None:
        """Send the head of a request, and say how much will be sent after it."""
        self._is_idle, self._is_streamed = False, True
        self._unsent = body_bytes
        self._reply = ReplyReader(bodiless=False)
        self._transport.write(head)

    async def send(self, piece: bytes, *, silence: float) -> bool:
        """Send more of the body, once there is room; False if the reply came before."""
        reply = self._reply
        while not reply.status and (self._is_full or self._error is not None):
            await self._wait(self._loop.time() + silence)
        if reply.status:
            return False
        self._transport.write(piece)
        self._unsent -= len(piece)
        return True

    async def status(self, *, silence: float) -> int:
        """The reply's, as soon as it is there."""
        reply = self._reply
        while not reply.status:
            await self._wait(self._loop.time() + silence)
        return reply.status

    async def piece(self, *, silence: float, least: int = 1) -> bytes:
        """More of the reply's body, at least so many bytes or its end, empty after that.

        Little more is read than what is taken.
        """
        reply = self._reply
        while reply.waiting_bytes() < least and not reply.is_whole:
            await self._wait(self._loop.time() + silence)
        piece = b"".join(reply.pieces)
        reply.pieces.clear()
        if self.is_open():
            self._transport.resume_reading()
        return piece

    async def rest(self, *, silence: float) -> Reply:
        """The reply, with what was not yet taken of its body."""
        pieces = []
        while piece := await self.piece(silence=silence):
            pieces.append(piece)
        return Reply(self._reply.status, self._reply.headers, b"".join(pieces))

    # ---- what the pool asks

    def is_open(self) -> bool:
        """Whether a request can be sent."""
        return self._error is None and not self._transport.is_closing()

    def finish(self) -> bool:
        """The request is done with, or given up: whether another may follow."""
        self._is_idle = True
        reply = self._reply
        return (
            reply.is_whole
            and not reply.is_last
            and self.is_open()
            # Else the server, which did not want it all, would take the next request for body.
            and not self._unsent
            and not self._transport.get_write_buffer_size()
        )

    def abort(self) -> None:
        """Close it at once; a request under way fails."""
        self._fail(ConnectionAbortedError("the connection was closed here"))

    # ---- what the event loop tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        # A stream's protocol is given a Transport; that of uvloop is of no class that says so.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_idle:
            self._fail(BadReply("the server spoke without being asked"))
            return
        reply = self._reply
        try:
            reply.feed(data)
        except BadReply as error:
            self._fail(error)
            return
        if reply.is_whole:
            self._tell()
        elif self._is_streamed:
            if reply.waiting_bytes() > AHEAD_BYTES:
                self._transport.pause_reading()
            self._tell()

    def connection_lost(self, error: Exception | None) -> None:
        """It is closed, by whomever."""
        reply = self._reply
        if reply.has_begun or self._is_idle:
            reply.end()
            self._end(error or ConnectionResetError("the server closed the connection"))
        else:
            reason = str(error) if error else "the server closed the connection without a reply"
            self._end(Unanswered(reason))

    def pause_writing(self) -> None:
        """No more is to be written for now."""
        self._is_full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_full = False
        if self._is_streamed:
            self._tell()

    # ---- waiting

    async def _wait(self, until: float) -> None:
        """Until the reply is whole; of a streamed one until anything happened."""
        if self._error is None:
            self._news = self._loop.create_future()
            timer = self._loop.call_at(until, self._expire)
            try:
                await self._news
            finally:
                timer.cancel()
        if self._error is not None and not self._reply.is_whole:
            raise self._error

    def _expire(self) -> None:
        self._fail(TimeoutError("timed out"))

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._end(error)
            self._transport.abort()

    def _end(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
            self._tell()

    def _tell(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)
