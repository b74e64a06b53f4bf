"""Follows futures that somebody waits for without asking: callbacks, `wait`, `as_completed`."""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from task_server.client.session import LONGEST_WAIT
from task_server.errors import ServerUnreachable, TaskServerError

if TYPE_CHECKING:
    from task_server.client.future import Future

THREADS = 16
CROWDED_WAIT = 1.0
"""Seconds to wait for one task while more tasks than threads are followed."""

log = logging.getLogger(__name__)


class Watcher:
    """A few threads that wait at the server for the ends of tasks, as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Future[Any]] = deque()
        self._threads = 0
        self._held = 0

    def watch(self, future: Future[Any]) -> None:
        """Settle the future when its task has ended."""
        with self._lock:
            self._waiting.append(future)
            if self._held + len(self._waiting) <= self._threads or self._threads == THREADS:
                return
            self._threads += 1
        threading.Thread(target=self._run, name="task-server-watch", daemon=True).start()

    def _run(self) -> None:
        while (future := self._next()) is not None:
            ended = self._follow(future)
            with self._lock:
                self._held -= 1
                if not ended:
                    self._waiting.append(future)

    def _next(self) -> Future[Any] | None:
        with self._lock:
            if not self._waiting:
                self._threads -= 1
                return None
            self._held += 1
            return self._waiting.popleft()

    def _follow(self, future: Future[Any]) -> bool:
        wait = CROWDED_WAIT if self._waiting else LONGEST_WAIT
        try:
            return future.refresh(wait)
        except ServerUnreachable as error:
            # The task goes on without us: whoever waits is served when the server is back.
            log.warning("still waiting for task %s: %s", future.id, error)
            return False
        except TaskServerError as error:
            future.fail(error)
            return True
