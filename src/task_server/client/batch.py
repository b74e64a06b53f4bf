"""Many tasks, as the caller holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

from task_server.client import requests
from task_server.client.estimate import Estimate
from task_server.client.outcomes import Outcome, failure, unreadable
from task_server.client.payloads import decode_inline, decode_value
from task_server.client.progress import Bar, follow
from task_server.client.session import LONGEST_WAIT, Session
from task_server.errors import NotFinished, ServerUnreachable, TaskServerError
from task_server.protocol.tasks import TERMINAL, BatchView, Error, Quantiles

Order = Literal["submitted", "finished"]
_SHORT_PAUSE = 0.05
_LONG_PAUSE = 1.0


class AnswerLine(Struct, frozen=True):
    """One line of a batch's stream of answers."""

    index: int
    id: str
    state: str
    encoding: str | None = None
    answer: Raw = Raw()
    blob: str | None = None
    error: Error | None = None
    cursor: str | None = None


class Answer:
    """How one task of a batch ended."""

    __slots__ = ("_line", "_outcome", "_session")

    def __init__(self, session: Session, line: AnswerLine) -> None:
        self._session = session
        self._line = line
        self._outcome: Outcome | None = None

    @property
    def index(self) -> int:
        """Place in the batch, from 0."""
        return self._line.index

    @property
    def id(self) -> str:
        """Id of the task."""
        return self._line.id

    @property
    def state(self) -> str:
        """succeeded, failed, cancelled or expired."""
        return self._line.state

    @property
    def json(self) -> bytes | None:
        """The answer as JSON text; None if there is none, or it is pickled or in a blob."""
        return bytes(self._line.answer) if self._line.encoding == "json" else None

    def result(self) -> Any:
        """The value; raises what the task ended with if there is none."""
        return self._read().get()

    def exception(self) -> BaseException | None:
        """What `result` would raise; None if there is a value."""
        return self._read().error

    def __repr__(self) -> str:
        return f"<Answer {self.index} {self.state}>"

    def _read(self) -> Outcome:
        if self._outcome is None:
            self._outcome = outcome_of_line(self._session, self._line)
        return self._outcome


class Batch:
    """Tasks that were submitted together. Iterating gives their values in order."""

    def __init__(
        self, session: Session, id: str, total: int, estimate: Estimate | None = None
    ) -> None:
        self.id = id
        self.estimate = estimate
        """As it was made at submit; None for a batch that was looked up."""
        self._session = session
        self._total = total

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[Any]:
        """Values in the order of submission; a task's failure is raised at its place."""
        for answer in self.answers():
            yield answer.result()

    def answers(
        self, order: Order = "submitted", *, timeout: float | None = None
    ) -> Iterator[Answer]:
        """Each task once, in order of submission or of ending; failures are not raised.

        NotFinished when the next is not there `timeout` seconds after the first was asked for.
        """
        end = None if timeout is None else self._session.clock() + timeout
        for line in self._lines(order, end):
            yield Answer(self._session, line)

    def as_completed(self) -> Iterator[Answer]:
        """Each task as it ends; failures are not raised."""
        return self.answers("finished")

    def status(self) -> BatchView:
        """Counts, progress and ETA now."""
        return self._look(None)

    def events(self) -> Iterator[BatchView]:
        """Counts, progress and ETA whenever they change, about once a second, until it is done."""
        return follow(self._session, self.id)

    @contextmanager
    def bar(self) -> Iterator[Bar]:
        """Show how far it is, and when it will be done, on stderr if that is a terminal."""
        bar = Bar()
        bar.follow(self._session, self.id)
        try:
            yield bar
        finally:
            bar.close()

    def with_progress(self) -> Iterator[Any]:
        """Values in the order of submission, as by iterating, with a bar beside them."""
        with self.bar():
            yield from self

    def progress(self) -> float:
        """How much is done, 0 to 1."""
        return self.status().progress

    def eta(self) -> Quantiles | None:
        """Seconds from now until all is done; None without workers."""
        return self.status().eta

    def done(self) -> bool:
        """Whether every task has ended."""
        return is_done(self.status())

    def wait(self, timeout: float | None = None) -> BatchView:
        """Wait until every task has ended; NotFinished after `timeout` seconds."""
        clock = self._session.clock
        end = None if timeout is None else clock() + timeout
        pauses = _pauses()
        while True:
            left = LONGEST_WAIT if end is None else max(end - clock(), 0.0)
            asked_at, wait = clock(), min(left, LONGEST_WAIT)
            view = self._look(wait)
            if is_done(view):
                return view
            if end is not None and clock() >= end:
                raise NotFinished(f"batch {self.id} is at {view.progress:.0%} after {timeout} s")
            if clock() - asked_at < min(wait, _LONG_PAUSE):
                self._session.sleep(next(pauses))

    def cancel(self, *, unstarted: bool = False) -> None:
        """Cancel all tasks that have not ended, or only those that have not started."""
        self._session.send(requests.cancel_batch(self.id, unstarted=unstarted))

    def __repr__(self) -> str:
        return f"<Batch {self.id} of {self._total}>"

    def _look(self, wait: float | None) -> BatchView:
        request = requests.read_batch(self.id, wait=wait)
        return requests.value_of(self._session.send(request, wait=wait or 0.0), BatchView)

    def _lines(self, order: Order, end: float | None) -> Iterator[AnswerLine]:
        cursor: str | None = None
        count, seen = 0, bytearray(self._total)
        pauses = _pauses()
        while count < self._total:
            before = count
            left = LONGEST_WAIT if end is None else max(end - self._session.clock(), 0.0)
            for line in self._lines_from(order, cursor, min(left, LONGEST_WAIT)):
                cursor = line.cursor or cursor
                if line.index >= len(seen):  # an open batch has grown
                    seen.extend(bytes(line.index + 1 - len(seen)))
                if not seen[line.index]:
                    seen[line.index] = 1
                    count += 1
                    yield line
            if count > before:
                pauses = _pauses()
            elif end is not None and self._session.clock() >= end:
                raise NotFinished(f"batch {self.id} is at {before} of {self._total} in time")
            elif count < self._total:
                self._session.sleep(next(pauses))

    def _lines_from(self, order: Order, cursor: str | None, wait: float) -> Iterator[AnswerLine]:
        """Lines until the stream ends, for whatever reason."""
        request = requests.read_answers(self.id, order=order, cursor=cursor, wait=wait)
        stream = self._session.open(request, wait=wait)
        # A stream that breaks is opened again where it ended: only opening it can fail for good.
        with stream, suppress(ServerUnreachable):
            for lines in lines_of(stream):
                yield from lines


_decode_lines = msgspec.json.Decoder(AnswerLine).decode_lines


def lines_of(pieces: Iterable[bytes]) -> Iterator[list[AnswerLine]]:
    """The whole lines that each piece brings; a last one without its end is dropped."""
    rest = b""
    for piece in pieces:
        whole, end, rest = (rest + piece).rpartition(b"\n")
        if end:
            yield requests.decoded(whole, _decode_lines)


def outcome_of_line(session: Session, line: AnswerLine) -> Outcome:
    if line.state != "succeeded":
        return failure(line.id, line.state, line.error)
    try:
        if line.blob is not None:
            return Outcome(decode_value(line.encoding, session.fetch(line.blob)))
        return Outcome(decode_inline(line.encoding, bytes(line.answer)))
    except TaskServerError as error:
        return unreadable(line.id, error)


def is_done(view: BatchView) -> bool:
    """Whether no more comes and every task has ended."""
    ended = sum(count for state, count in view.counts.items() if state in TERMINAL)
    return not view.open and ended >= view.total


def _pauses() -> Iterator[float]:
    pause = _SHORT_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONG_PAUSE)
