"""One task, as the caller holds it."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from task_server.client import requests
from task_server.client.estimate import Estimate
from task_server.client.outcomes import Outcome, cancellation, failure, unreadable
from task_server.client.payloads import decode_inline, decode_value
from task_server.client.remaining import remaining, share_done
from task_server.client.session import LONGEST_WAIT, Session
from task_server.client.watch import Watcher
from task_server.errors import Conflict, NotFinished, TaskServerError
from task_server.protocol.explain import Explanation
from task_server.protocol.tasks import TERMINAL, Error, Quantiles, TaskView

if TYPE_CHECKING:
    from task_server.client.client import Client

T = TypeVar("T")


class Future(concurrent.futures.Future[T]):
    """The answer of one task, when it is there.

    It follows the contract of `concurrent.futures.Future`, and works with `wait`, `as_completed`
    and `asyncio.wrap_future`; `result` asks the server only while somebody waits for it. It may be
    awaited, and pickles to its id: whoever unpickles it asks the same server, with a token of its
    own.
    """

    _is_told = False
    """Somebody tells it of its task's end, whether or not anybody waits."""

    def __init__(
        self, session: Session, watcher: Watcher, id: str, estimate: Estimate | None = None
    ) -> None:
        super().__init__()
        self.id = id
        self.estimate = estimate
        """As it was made at submit; None where the server did not say."""
        self._session = session
        self._watcher = watcher
        self._is_watched = False
        self._is_claimed = False
        self._last_state = "queued"
        self._why_cancelled: Error | None = None
        if not self._is_told:
            # concurrent.futures.wait and as_completed make themselves known by appending here.
            self._waiters = _Waiters(self)

    @property
    def state(self) -> str:
        """The task's state now: queued, delayed, running, succeeded, failed, cancelled, expired."""
        if not self._is_settled():
            self.refresh()
        return self._last_state

    @property
    def progress(self) -> float:
        """How much of it is done, 0 to 1, by the time that such calls take; asks the server."""
        if self._is_settled() or self.refresh():
            return 1.0
        told = self._explained()
        left = remaining(told, self.status().estimate)
        return share_done(self.status().started_at, left) if told.state == "running" else 0.0

    def eta(self) -> Quantiles | None:
        """Seconds from now until it has ended; None while nobody can tell, as without workers."""
        if self._is_settled() or self.refresh():
            return Quantiles(0.0, 0.0, 0.0)
        return remaining(self._explained(), self.status().estimate)

    def status(self) -> TaskView:
        """All that the server tells of the task."""
        return self._look(None)

    def result(self, timeout: float | None = None) -> T:
        """The answer, or the function's own exception; NotFinished after `timeout` seconds."""
        self._await(timeout)
        if self.cancelled():
            raise cancellation(self.id, self._why_cancelled)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` would raise; None if there is an answer. Raises TaskCancelled itself."""
        self._await(timeout)
        if self.cancelled():
            raise cancellation(self.id, self._why_cancelled)
        return super().exception(0)

    def done(self) -> bool:
        """Whether the task has ended, in whatever way; asks the server."""
        return self._is_settled() or self.refresh()

    def running(self) -> bool:
        """Whether it runs now; asks the server."""
        return self.state == "running"

    def cancel(self) -> bool:
        """Cancel the task, also while it runs; False if it had ended otherwise before."""
        if not self._is_settled():
            with suppress(Conflict):  # it has ended: the look below says how
                self._session.send(requests.cancel_task(self.id))
            self.refresh()
        return self.cancelled()

    def add_done_callback(self, fn: Callable[[concurrent.futures.Future[T]], object]) -> None:
        """Call `fn(future)` when the task has ended, in a thread of the client's."""
        super().add_done_callback(fn)
        self._watch()

    def logs(self) -> str:
        """What the task has printed so far."""
        return requests.text_of(self._session.send(requests.read_logs(self.id)))

    def refresh(self, wait: float | None = None) -> bool:
        """Look at the task, waiting up to `wait` seconds for its end; whether it has ended."""
        self.settle(self._look(wait))
        return self._is_settled()

    def settle(self, view: TaskView) -> None:
        """Take over the outcome from a view of the task, if it has ended."""
        self._last_state = view.state
        if view.state not in TERMINAL or self._is_settled():
            return
        outcome = outcome_of(self._session, view)
        self._why_cancelled = None if view.error is UNSET else view.error
        self._set(view.state, outcome)

    def fail(self, error: BaseException) -> None:
        """Nothing more can be learned of the task: `error` says why."""
        self._set("failed", Outcome(error=error))

    def __await__(self) -> Generator[Any, None, T]:
        import asyncio  # only programs that await have it already

        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> tuple[Any, ...]:
        # No token: who unpickles it asks with its own.
        return _known_at, (self._session.transport.url, self.id)

    def __repr__(self) -> str:
        return f"<Future {self.id} {self._last_state}>"

    def _set(self, state: str, outcome: Outcome) -> None:
        with self._condition:
            is_first, self._is_claimed = not self._is_claimed, True
            if not is_first:  # another thread was quicker; both saw the same end
                self._condition.wait_for(self._is_settled)
                return
        if state == "cancelled":
            if super().cancel():
                self.set_running_or_notify_cancel()
        elif outcome.error is not None:
            self.set_exception(outcome.error)
        else:
            self.set_result(outcome.value)

    def _is_settled(self) -> bool:
        return super().done()

    def _explained(self) -> Explanation:
        return requests.value_of(self._session.send(requests.explain_task(self.id)), Explanation)

    def _look(self, wait: float | None) -> TaskView:
        request = requests.read_task(self.id, wait=wait)
        return requests.value_of(self._session.send(request, wait=wait or 0.0), TaskView)

    def _await(self, timeout: float | None) -> None:
        end = None if timeout is None else self._session.clock() + timeout
        while not self._is_settled():
            left = LONGEST_WAIT if end is None else max(end - self._session.clock(), 0.0)
            wait = min(left, LONGEST_WAIT)
            if not self.refresh(wait) and end is not None and self._session.clock() >= end:
                raise NotFinished(f"task {self.id} is {self._last_state} after {timeout} s")

    def _watch(self) -> None:
        if not self._is_told and not self._is_watched and not self._is_settled():
            self._is_watched = True
            self._watcher.watch(self)


@functools.lru_cache(maxsize=8)
def _client_of(url: str) -> Client:
    from task_server.client.client import Client  # which needs this module

    return Client(url)


def _known_at(url: str, task: str) -> Future[Any]:
    return _client_of(url).future(task)


class _Waiters(list[Any]):
    """Who waits for a future; the first one makes the client watch it."""

    def __init__(self, future: Future[Any]) -> None:
        super().__init__()
        self._future = future

    def append(self, waiter: Any) -> None:
        super().append(waiter)
        self._future._watch()


def outcome_of(session: Session, view: TaskView) -> Outcome:
    """The outcome of a task that has ended; fetches the answer if it lies in a blob."""
    if view.state != "succeeded":
        return failure(view.id, view.state, None if view.error is UNSET else view.error)
    try:
        if view.blob is not UNSET:
            return Outcome(decode_value(view.encoding, session.fetch(view.blob)))
        return Outcome(decode_inline(view.encoding, bytes(view.answer)))
    except TaskServerError as error:
        return unreadable(view.id, error)
