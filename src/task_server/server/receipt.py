"""In which time a request has to arrive: HTTP itself would wait for ever."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from task_server.alarm import Alarm

Phase = Literal["due", "headers", "body", "answer", "rest"]
"""What a connection waits for: a request, of which nothing came yet; the rest of its headers, or
of its body; our own answer; or the next request."""


class Times(Struct, frozen=True):
    """Seconds for each."""

    headers: float = 10.0
    """From the first byte, or the connection's begin, to the end of the headers."""
    body: float = 60.0
    """Then for the body, beside the time that its bytes take at the slowest pace."""
    bytes_per_second: float = 1 << 16
    """The slowest pace."""
    rest: float = 75.0
    """Between two requests."""


class Receipt:
    """Watches over what arrives on one connection; `on_late` is called when it takes too long."""

    __slots__ = ("_alarm", "_loop", "_on_late", "_times", "phase", "received", "since")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, times: Times, on_late: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._times = times
        self._on_late = on_late
        self._alarm = Alarm(loop, self._look)
        self.begin("due")

    def begin(self, phase: Phase) -> None:
        """Something else is to arrive from now on."""
        self.phase = phase
        self.since = self._loop.time()
        self.received = 0
        """Bytes since then, in pieces that came later."""

    def watch(self) -> None:
        """Look again when what is to arrive is due."""
        due_at = self._due_at()
        if due_at < math.inf:
            self._alarm.set(due_at)

    def wait_for_us(self) -> None:
        """The server does not read: not the client's fault."""
        self.since = self._loop.time()

    def end(self) -> None:
        """The connection has ended."""
        self._alarm.stop()

    def _due_at(self) -> float:
        if self.phase == "answer":
            return math.inf
        if self.phase == "rest":
            return self.since + self._times.rest
        if self.phase == "body":
            pace = self._times.bytes_per_second
            return self.since + self._times.body + self.received / pace
        return self.since + self._times.headers

    def _look(self) -> None:
        if self._due_at() <= self._loop.time():
            self._on_late()
        self.watch()
