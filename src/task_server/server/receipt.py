"""How a request may arrive: ASGI servers wait for ever and take heads of any size and version."""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from task_server.server.http import DEPARTURE, Departure

MAXIMUM_HEADER_BYTES = 1 << 15
"""Of all headers of a request together."""
MAXIMUM_TARGET_BYTES = 1 << 13
"""Of its path and query."""
VERSIONS = ("1.1", "1.0")
_HOST = re.compile(rb"[\w.~!$&'()*+,;=%:\[\]-]*")


class _Refused(Exception):
    """A head that is not taken: status and reason."""


class PunctualProtocol(HttpToolsProtocol):
    """uvicorn's protocol for a connection, which ends when a request takes too long to arrive."""

    header_seconds = 10.0
    """From the first byte, or the connection's begin, to the end of the headers."""
    body_seconds = 60.0
    """Then for the body, beside the time that its bytes take at the slowest pace."""
    bytes_per_second = 1 << 16
    """The slowest pace."""

    _phase: Literal["idle", "due", "headers", "body"] = "due"
    """What is to arrive: nothing; a request, of which nothing came yet; or the rest of one."""
    _since = 0.0
    """When the phase began."""
    _received = 0
    """Bytes since then, in pieces that came later."""
    _piece_bytes = 0
    """Of the piece that is being read."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        self._departure = Departure()
        self._begin("due")
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._phase = "idle"
        self._watch()
        super().connection_lost(exc)
        self._departure.happen()

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        self._received += len(data)
        self._piece_bytes = len(data)
        super().data_received(data)
        if self._phase == "idle" and self._has_replied():
            self._begin("due")  # bytes that belong to no request
        self._watch()
        if self._phase == "headers" and self._received > MAXIMUM_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self.scope["extensions"] = {DEPARTURE: self._departure}  # type: ignore[dict-item]
        self._begin("headers")

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        self._check_head()
        super().on_headers_complete()
        self._begin("body")

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._phase = "idle"
        if not self.pipeline:  # who waits has to hear that the client goes
            self.flow.resume_reading()

    def _check_head(self) -> None:
        version = self.parser.get_http_version()
        if version not in VERSIONS:
            raise _Refused(b"400 Bad Request", b"this server speaks HTTP/1.1")
        if len(self.url) > MAXIMUM_TARGET_BYTES:
            raise _Refused(b"414 URI Too Long", b"the path and query are too long")
        fields = dict(self.headers)
        self._check_host(fields, is_needed=version == "1.1")
        if b"transfer-encoding" in fields:
            self._check_codings(is_known=version == "1.1")
        if self._received + self._piece_bytes <= MAXIMUM_HEADER_BYTES:
            return  # all that came is no more than that: no need to count
        if sum(len(name) + len(value) for name, value in self.headers) > MAXIMUM_HEADER_BYTES:
            raise _Refused(b"431 Request Header Fields Too Large", b"the headers are too large")

    def _check_host(self, fields: dict[bytes, bytes], *, is_needed: bool) -> None:
        """One host, as RFC 9112 wants it: servers on the way may take another of two."""
        host = fields.get(b"host", None if is_needed else b"")
        if host is None or _HOST.fullmatch(host) is None:
            raise _Refused(b"400 Bad Request", b"the header Host is missing, or is no host")
        has_doubles = len(fields) < len(self.headers)
        if has_doubles and [name for name, _ in self.headers].count(b"host") > 1:
            raise _Refused(b"400 Bad Request", b"a request has one header Host")

    def _check_codings(self, *, is_known: bool) -> None:
        if not is_known:
            raise _Refused(b"400 Bad Request", b"HTTP/1.0 knows no Transfer-Encoding")
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if codings != [b"chunked"]:
            raise _Refused(b"501 Not Implemented", b"the one transfer coding here is chunked")

    def send_400_response(self, msg: str) -> None:
        """What uvicorn does where its parser, or a call from there, raises."""
        error = sys.exception()
        cause = None if error is None else error.__context__
        refused = cause.args if isinstance(cause, _Refused) else (b"400 Bad Request", msg.encode())
        self._end(*refused)

    def _begin(self, phase: Literal["due", "headers", "body"]) -> None:
        self._phase = phase
        self._since = self.loop.time()
        self._received = 0

    def _watch(self) -> None:
        """Have a timer while something is to arrive; what came in one piece needs none."""
        if self._phase == "idle":
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        elif self._timer is None:
            self._timer = self.loop.call_at(self._due_at(), self._look)

    def _due_at(self) -> float:
        if self._phase != "body":
            return self._since + self.header_seconds
        return self._since + self.body_seconds + self._received / self.bytes_per_second

    def _look(self) -> None:
        self._timer = None
        now = self.loop.time()
        if self.flow.read_paused:  # the server does not read: not the client's fault
            self._since = now
        if now < self._due_at():
            self._watch()
        else:
            self._refuse(b"408 Request Timeout", b"the request took too long to arrive")

    def _refuse(self, status: bytes, why: bytes) -> None:
        """End the connection, and say why where a reply is due and none has begun."""
        if self.transport.is_closing():
            return
        in_headers = self._phase == "headers" and self._has_replied()
        in_body = self._phase == "body" and not self.cycle.response_started
        if in_headers or in_body:
            self._end(status, why)
        self.transport.close()

    def _end(self, status: bytes, why: bytes) -> None:
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(why), why)
        )
        self.transport.close()

    def _has_replied(self) -> bool:
        """Whether nothing that came before still waits for its reply."""
        return self.cycle is None or self.cycle.response_complete
