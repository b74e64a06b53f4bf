"""How long a request may take to arrive: ASGI servers wait for ever, and slow clients are many."""

from __future__ import annotations

import asyncio
from typing import Literal

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAXIMUM_HEADER_BYTES = 1 << 16
"""Headers that are not complete by then are not read further."""


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
    """Bytes since then."""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """As asyncio has it."""
        super().connection_made(transport)
        self._begin("due")
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._phase = "idle"
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        self._received += len(data)
        super().data_received(data)
        if self._phase == "idle" and self._has_replied():
            self._begin("due")  # bytes that belong to no request
        self._watch()
        if self._phase == "headers" and self._received > MAXIMUM_HEADER_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._begin("headers")

    def on_headers_complete(self) -> None:
        """Its headers are there."""
        super().on_headers_complete()
        self._begin("body")

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._phase = "idle"

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
            self.transport.write(
                b"HTTP/1.1 %b\r\ncontent-type: text/plain; charset=utf-8\r\n"
                b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(why), why)
            )
        self.transport.close()

    def _has_replied(self) -> bool:
        """Whether nothing that came before still waits for its reply."""
        return self.cycle is None or self.cycle.response_complete
