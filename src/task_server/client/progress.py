"""How far a batch is: as the server tells it, and as a line on a terminal."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import msgspec

from task_server.client import requests
from task_server.client.durations import span
from task_server.client.session import LONGEST_WAIT, Session
from task_server.errors import ServerUnreachable, TaskServerError
from task_server.protocol.tasks import TERMINAL, BatchView

BAR_COLUMNS = 30
_PAUSE_SECONDS = 1.0
_ERASE = "\r\x1b[K"

_decode = msgspec.json.Decoder(BatchView).decode


def follow(session: Session, batch: str) -> Iterator[BatchView]:
    """The batch whenever it changes, at most about once a second, until it is done."""
    while True:
        stream = session.open(requests.follow_batch(batch), wait=LONGEST_WAIT)
        # A stream that breaks is opened again: the server tells first how far it is by now.
        with stream, suppress(ServerUnreachable):
            for name, data in _events(stream):
                yield requests.decoded(data, _decode)
                if name == b"done":
                    return
        session.sleep(_PAUSE_SECONDS)


def _events(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Name and data of whole events; comments and events without data are dropped."""
    rest = b""
    for piece in pieces:
        *blocks, rest = (rest + piece).split(b"\n\n")
        for block in blocks:
            fields = dict(line.partition(b": ")[::2] for line in block.split(b"\n"))
            if b"data" in fields:
                yield fields.get(b"event", b""), fields[b"data"]


class Bar:
    """A line on a terminal; where `out` is none, nothing."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self.is_shown = self._out.isatty()
        self._line = ""
        self._lock = threading.Lock()
        self._is_over = False

    def show(self, done: int, whole: int, text: str) -> None:
        """Draw it anew."""
        with self._lock:
            self._line = _line(done, whole, text)
            self._draw(self._line)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Take the line away while something else is printed."""
        with self._lock:
            self._draw("")
            try:
                yield
            finally:
                self._draw(self._line)

    def close(self) -> None:
        """Take the line away for good."""
        with self._lock:
            self._draw("")
            self._is_over = True

    def follow(self, session: Session, batch: str) -> None:
        """Show a batch, from a thread of its own, until it is done or the bar is closed."""
        if self.is_shown:
            threading.Thread(target=self._run, args=(session, batch), daemon=True).start()

    def _run(self, session: Session, batch: str) -> None:
        # Whoever waits for the answers hears of what is wrong: here it only ends the bar.
        with suppress(TaskServerError):
            for view in follow(session, batch):
                if self._is_over:
                    return
                self.show(*progress_of(view))

    def _draw(self, line: str) -> None:
        if self.is_shown and not self._is_over:
            self._out.write(_ERASE + line)
            self._out.flush()


def progress_of(view: BatchView) -> tuple[int, int, str]:
    """How many are done, of how many, and that in words with the time that is left."""
    done = sum(count for state, count in view.counts.items() if state in TERMINAL)
    whole = max(view.total, view.expected or 0)
    parts = [f"{done:,} of {whole:,}"]
    failed = done - view.counts.get("succeeded", 0)
    if failed:
        parts.append(f"{failed:,} without an answer")
    if done < whole:
        parts.append(_left(view))
    return done, whole, ", ".join(parts)


def _left(view: BatchView) -> str:
    if view.eta is None:
        return "there is no worker"
    return f"done in {span(view.eta.p10, view.eta.p90)}"


def _line(done: int, whole: int, text: str) -> str:
    filled = BAR_COLUMNS * done // whole if whole else 0
    bar = "=" * filled + "-" * (BAR_COLUMNS - filled)
    # A line that wraps could not be taken away again.
    return f"[{bar}] {text}"[: shutil.get_terminal_size().columns - 1]
