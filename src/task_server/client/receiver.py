"""Settles the futures of one batch as its answers stream back, over one connection."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from task_server.client import requests
from task_server.client.batch import AnswerLine, lines_of
from task_server.client.session import LONGEST_WAIT, Session
from task_server.errors import Gone, NotFound, ServerUnreachable, TaskServerError

if TYPE_CHECKING:
    from task_server.client.executor_future import ExecutorFuture

_SHORT_PAUSE = 0.05
_LONG_PAUSE = 1.0


class Receiver:
    """Follows the ends of a batch's tasks while any of them is waited for.

    One thread reads; it is started by the first future and ends with the last one.
    """

    def __init__(self, session: Session, batch: str) -> None:
        self.batch = batch
        self._session = session
        self._changed = threading.Condition()
        self._pending: dict[str, ExecutorFuture[Any]] = {}
        self._is_running = False
        self._cursor: str | None = None

    def expect(self, futures: Iterable[ExecutorFuture[Any]]) -> None:
        """Settle these when their tasks have ended; called before the tasks are sent."""
        with self._changed:
            self._pending.update((future.id, future) for future in futures)
            if self._is_running or not self._pending:
                return
            self._is_running = True
        threading.Thread(target=self._run, name="task-server-receive", daemon=True).start()

    def forget(self, ids: Iterable[str]) -> None:
        """Expect no more of these tasks."""
        with self._changed:
            for id in ids:
                self._pending.pop(id, None)
            if not self._pending:
                self._changed.notify_all()

    def wait(self) -> None:
        """Wait until nothing more is expected."""
        with self._changed:
            self._changed.wait_for(lambda: not self._pending)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is expected."""
        return not self._pending

    def _run(self) -> None:
        pauses = _pauses()
        while self._is_needed():
            asked_at = self._session.clock()
            try:
                if self._follow():
                    pauses = _pauses()
                    continue
                self._look_at_oldest()
            except TaskServerError as error:
                self._give_up(error)
            if self._session.clock() - asked_at < _LONG_PAUSE:  # else it was a quiet stream
                self._session.sleep(next(pauses))

    def _is_needed(self) -> bool:
        with self._changed:
            self._is_running = bool(self._pending)
            return self._is_running

    def _follow(self) -> int:
        """Settle futures until the stream ends, for whatever reason; how many lines came."""
        request = requests.read_answers(
            self.batch, order="finished", cursor=self._cursor, wait=LONGEST_WAIT
        )
        count = 0
        stream = self._session.open(request, wait=LONGEST_WAIT)
        # A stream that breaks is opened again where it ended: only opening it can fail for good.
        with stream, suppress(ServerUnreachable):
            for lines in lines_of(stream):
                count += len(lines)
                self._settle(lines)
        return count

    def _settle(self, lines: list[AnswerLine]) -> None:
        self._cursor = lines[-1].cursor or self._cursor
        with self._changed:
            found = [(self._pending.get(line.id), line) for line in lines]
        settled: list[str] = []
        for future, line in found:
            if future is None:
                continue
            if future.settle_by(line):
                settled.append(future.id)
            else:
                future.add_done_callback(partial(self._forget_one, future.id))
        self.forget(settled)

    def _forget_one(self, id: str, _: object) -> None:
        self.forget([id])

    def _look_at_oldest(self) -> None:
        """A task may have ended where no stream tells of it: its answer is past its time, say."""
        with self._changed:
            oldest = next(iter(self._pending.values()), None)
        if oldest is None or not oldest.is_sent:
            return
        try:
            oldest.refresh()
        except (NotFound, Gone) as error:
            oldest.fail(error)
        except TaskServerError:
            return  # the stream is opened again, with more patience
        if oldest.done():
            self.forget([oldest.id])

    def _give_up(self, error: TaskServerError) -> None:
        with self._changed:
            futures = list(self._pending.values())
        for future in futures:
            told = type(error)(
                f"{error}; the task goes on there: client.future({future.id!r}).result() asks again"
            )
            told.__cause__ = error
            future.fail(told)
        self.forget(future.id for future in futures)


def _pauses() -> Iterator[float]:
    pause = _SHORT_PAUSE
    while True:
        yield pause
        pause = min(2 * pause, _LONG_PAUSE)
