"""The future of a task that is sent together with others, and whose answer is streamed."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, TypeVar

from task_server.client.batch import AnswerLine, outcome_of_line
from task_server.client.future import Future
from task_server.client.outcomes import Outcome
from task_server.client.session import Session
from task_server.client.watch import Watcher
from task_server.errors import NotFinished

if TYPE_CHECKING:
    from task_server.client.sender import Sender

T = TypeVar("T")


class ExecutorFuture(Future[T]):
    """As `Future`, but it is told of its task's end: whoever waits for it asks nobody."""

    _is_told = True

    def __init__(self, session: Session, watcher: Watcher, id: str, sender: Sender) -> None:
        super().__init__(session, watcher, id)
        self._sender: Sender | None = sender
        """Who has it until it is sent."""

    @property
    def is_sent(self) -> bool:
        """Whether the server has the task, or refused it."""
        return self._sender is None

    @property
    def state(self) -> str:
        """The task's state now; queued while it is not sent."""
        return super().state if self.is_sent else self._last_state

    def done(self) -> bool:
        """Whether the task has ended, in whatever way."""
        return self._is_settled()

    def cancel(self) -> bool:
        """Cancel the task, also while it runs; False if it had ended otherwise before."""
        sender = self._sender
        if sender is not None and sender.withdraw(self):
            return True
        return super().cancel()

    def settle_by(self, line: AnswerLine) -> bool:
        """Take over the outcome from a line of the batch's answers; False: it comes later."""
        if line.blob is not None and not self._is_settled():
            # Fetched by another thread, so that it holds up no other future.
            self._watcher.watch(self)
            return False
        self._last_state = line.state
        self._why_cancelled = line.error
        self._set(line.state, outcome_of_line(self._session, line))
        return True

    def note_sent(self) -> None:
        """The server has the task, or refused it."""
        self._sender = None

    def withdraw(self) -> None:
        """End it as cancelled; its task was not sent and never will be."""
        self._sender = None
        self._last_state = "cancelled"
        self._set("cancelled", Outcome())

    def _await(self, timeout: float | None) -> None:
        try:
            super(Future, self).exception(timeout)
        except CancelledError:
            pass
        except TimeoutError:
            message = f"task {self.id} is {self._last_state} after {timeout} s"
            raise NotFinished(message) from None
