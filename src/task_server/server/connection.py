"""A connection: requests come in, and each is answered in its turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote

import httptools

from task_server.errors import RequestError
from task_server.server.heads import MAXIMUM_HEADER_BYTES, Refused, check_head, check_size
from task_server.server.http import Reply
from task_server.server.receipt import Receipt, Times
from task_server.server.request import Departure, Disconnected, Request

log = logging.getLogger(__name__)

Answer = Callable[[Request], Awaitable[Reply]]
TIMES = Times()
AHEAD_BYTES = 1 << 18
"""Of a body that nobody reads: then its client has to wait."""
LINGER_SECONDS = 1.0
"""How long a client that was refused may go on to send."""
JOINED_BYTES = 1 << 16
"""Bodies up to this size leave in one piece with their head."""


class Connection(asyncio.Protocol):
    """One client's; in `others` as long as it is open.

    `answer` is called for one request after the other; those that come meanwhile wait.
    """

    def __init__(self, answer: Answer, others: set[Connection], times: Times = TIMES) -> None:
        self._answer = answer
        self._others = others
        self._loop = asyncio.get_running_loop()
        self._parser = self._new_parser()
        self._transport: asyncio.Transport
        self._departure = Departure()
        self._receipt = Receipt(self._loop, times, self._on_late)
        self._piece_bytes = 0
        """Of the piece that is being read."""
        self._target = b""
        self._fields: dict[bytes, bytes] = {}
        self._repeated: list[tuple[bytes, bytes]] = []
        self._arriving: Request | None = None
        """Whose body comes."""
        self._answered: Request | None = None
        """Whose reply is due."""
        self._next: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        """The reply, a stream."""
        self._is_ending = False
        """No further request is taken."""
        self._is_over = False
        """It was refused; what still comes is not looked at."""
        self._is_reading = True
        self._may_write: asyncio.Future[None] | None = None
        """While the client does not read what it is sent: until it does."""

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        # What comes after a last request is not answered; it must not spoil that one's reply.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser

    def stop(self) -> None:
        """Take no further request, and close when the one that is being answered is."""
        self._is_ending = True
        self._next.clear()
        if self._answered is None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()

    # ---- as asyncio has it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = transport  # type: ignore[assignment]  # of a socket: a whole one
        self._others.add(self)
        self._receipt.watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._others.discard(self)
        self._receipt.end()
        self._next.clear()
        self._departure.happen()
        self.resume_writing()

    def pause_writing(self) -> None:
        """It does not read what it is sent."""
        self._may_write = self._loop.create_future()

    def resume_writing(self) -> None:
        """It does again."""
        if self._may_write is not None and not self._may_write.done():
            self._may_write.set_result(None)
        self._may_write = None

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._is_over:
            return
        receipt = self._receipt
        self._piece_bytes = len(data)
        receipt.received += self._piece_bytes
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._refuse_bytes(error.__context__)
            return
        if receipt.phase == "rest":
            receipt.begin("due")  # bytes that belong to no request
        receipt.watch()
        if receipt.phase == "headers" and receipt.received > MAXIMUM_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

    def _feed(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # To a protocol that is not spoken here; RFC 9110, section 7.8: as if it did not ask.
            lines = [b"%b %b HTTP/1.1" % (self._parser.get_method(), self._target)]
            headers = (*self._fields.items(), *self._repeated)
            lines += [b"%b: %b" % each for each in headers if each[0] != b"upgrade"]
            self._parser = self._new_parser()
            self._feed(b"\r\n".join((*lines, b"", data[upgrade.args[0] :])))

    # ---- as the parser has it

    def on_message_begin(self) -> None:
        """A request begins."""
        self._target = b""
        self._fields, self._repeated = {}, []
        self._receipt.begin("headers")

    def on_url(self, url: bytes) -> None:
        """A piece of its target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header."""
        name = name.lower()
        if name in self._fields:
            self._repeated.append((name, value))
        else:
            self._fields[name] = value

    def on_headers_complete(self) -> None:
        """All of them are there."""
        version = self._parser.get_http_version()
        check_head(version, self._target, self._fields, self._repeated)
        if self._receipt.received + self._piece_bytes > MAXIMUM_HEADER_BYTES:
            check_size(self._fields, self._repeated)  # else all that came is no more than that
        if self._parser.should_upgrade():
            if self._parser.get_method() == b"CONNECT":
                raise Refused(b"501 Not Implemented", b"this server is no proxy")
            return
        self._arriving = request = self._request(version)
        self._receipt.begin("body")
        if self._is_ending:
            request.drop()
            return
        self._is_ending = not request.keeps_alive
        if self._answered is None:
            self._start(request)
        else:
            self._next.append(request)
            self._pause()

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        if self._arriving is not None:
            self._arriving.add(body)
            if self._arriving.waiting_bytes > AHEAD_BYTES:
                self._pause()

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self._arriving is None:
            return
        self._arriving.complete()
        self._arriving = None
        self._receipt.begin("rest" if self._answered is None else "answer")
        if not self._next:  # who waits has to hear that the client goes
            self._resume()

    def _request(self, version: str) -> Request:
        url = httptools.parse_url(self._target)
        if not url.path or not url.path.isascii():
            raise Refused(b"400 Bad Request", b"the request names no path")
        path = url.path.decode("ascii")
        return Request(
            self._parser.get_method().decode("ascii"),
            unquote(path) if "%" in path else path,
            url.query or b"",
            self._fields,
            self._repeated,
            departure=self._departure,
            on_read=self._on_read,
            version=version,
            keeps_alive=version != "1.0" and self._parser.should_keep_alive(),
        )

    def _on_read(self) -> None:
        """All that came of a body is read, and more is to come."""
        request = self._answered
        if request is not None and request.awaits_continue:
            request.awaits_continue = False
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._resume()

    def _pause(self) -> None:
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._is_reading and not self._transport.is_closing():
            self._is_reading = True
            self._transport.resume_reading()

    # ---- answering

    def _start(self, request: Request) -> None:
        self._answered = request
        self._task = self._loop.create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            reply = await self._answer(request)
            if self._may_write is not None:
                await self._may_write
            if isinstance(reply.body, bytes):
                self._send(request, reply, reply.body)
            else:
                await self._stream(request, reply, reply.body)
        except Disconnected:
            self._transport.close()
        except RequestError as error:  # half a reply is out: only cutting it off tells the truth
            log.warning("a reply is cut off: %s", error)
            self._transport.close()
        except Exception:
            log.exception("a reply is cut off")
            self._transport.close()
        else:
            self._finish(request)

    def _send(self, request: Request, reply: Reply, body: bytes) -> None:
        """A whole reply, in one piece where that is no more work than two."""
        head = self._head(reply, len(body))
        if request.method == "HEAD":
            self._transport.write(head)
        elif len(body) <= JOINED_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))

    async def _stream(self, request: Request, reply: Reply, body: AsyncIterable[bytes]) -> None:
        """A reply piece by piece, as fast as its client reads."""
        self._has_begun = True
        has_chunks = reply.size is None and request.version == "1.1"
        self._transport.write(self._head(reply, reply.size, has_chunks=has_chunks))
        if request.method == "HEAD":
            return
        size = 0
        async for piece in body:
            if self._may_write is not None:
                await self._may_write
            if self._departure.has_happened:
                raise Disconnected
            size += len(piece)
            if piece and has_chunks:
                piece = b"%x\r\n%b\r\n" % (len(piece), piece)
            self._transport.write(piece)
        if has_chunks:
            self._transport.write(b"0\r\n\r\n")
        elif reply.size not in (None, size):
            raise RuntimeError(f"a reply of {reply.size} bytes has {size}")

    def _head(self, reply: Reply, size: int | None, *, has_chunks: bool = False) -> bytes:
        head = _first_lines(reply.status, reply.content_type, int(time.time()))
        for name, value in reply.headers:
            if b"\n" in value or b"\r" in value:
                raise RuntimeError(f"the header {name!r} has more than one line")
            head += b"%b: %b\r\n" % (name, value)
        if self._is_last():
            head += b"connection: close\r\n"
        if has_chunks:
            head += b"transfer-encoding: chunked\r\n"
        if size is None or reply.status == 204:
            return head + b"\r\n"
        return head + b"content-length: %d\r\n\r\n" % size

    def _is_last(self) -> bool:
        """Whether the connection ends with this reply."""
        return self._is_ending and not self._next

    def _finish(self, request: Request) -> None:
        """A request is answered; the next one is due."""
        is_last = self._is_last()
        request.drop()
        self._answered = self._task = None
        self._has_begun = False
        if is_last:
            self._transport.close()
        elif self._next:
            self._start(self._next.popleft())
            return
        elif self._receipt.phase == "answer":
            self._receipt.begin("rest")
            self._receipt.watch()
        self._resume()

    # ---- refusing

    def _on_late(self) -> None:
        if self._is_reading:
            self._refuse(b"408 Request Timeout", b"the request took too long to arrive")
        else:
            self._receipt.wait_for_us()

    def _refuse(self, status: bytes, why: bytes) -> None:
        """End the connection, and say why where a reply is due and none has begun."""
        phase = self._receipt.phase
        in_headers = phase == "headers" and self._answered is None
        in_body = phase == "body" and self._arriving is self._answered and not self._has_begun
        if in_headers or in_body:
            self._end(status, why)
        else:
            self._transport.close()

    def _refuse_bytes(self, cause: BaseException | None) -> None:
        """What came is no request: as the parser says, or who hears of what it found."""
        if isinstance(cause, Refused):
            self._end(*cause.args)
            return
        if cause is not None and not isinstance(cause, httptools.HttpParserError):
            log.error("a request could not be read", exc_info=cause)
        self._end(b"400 Bad Request", b"this is no HTTP request")

    def _end(self, status: bytes, why: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(why), why)
        )
        # Closed at once, bytes still on their way here could cost the client what it is told.
        self._is_over = True
        self._receipt.begin("answer")  # nothing more has to arrive
        self._departure.happen()  # for who reads the body
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)


@lru_cache(maxsize=64)
def _first_lines(status: int, content_type: bytes, second: int) -> bytes:
    """Of a reply sent in that second."""
    return b"HTTP/1.1 %d %b\r\ndate: %b\r\ncontent-type: %b\r\n" % (
        status,
        HTTPStatus(status).phrase.encode(),
        formatdate(second, usegmt=True).encode(),
        content_type,
    )
