"""Running out of file descriptors: one line a second says so, and it passes by itself."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Callable
from typing import Any

from task_server.errors import Unavailable

log = logging.getLogger(__name__)

LOG_SECONDS = 1.0
RETRY_SECONDS = 1.0


class Descriptors:
    """Hears of each failure for want of descriptors; `now` gives monotonic seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._quiet_until = float("-inf")

    def lack(self, error: object) -> bool:
        """Whether `error` says that there are none left; logged if not just now."""
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            return False
        if self._now() >= self._quiet_until:
            self._quiet_until = self._now() + LOG_SECONDS
            log.warning("no file descriptors are left (%s): some callers have to wait", error)
        return True

    def refusal(self) -> Unavailable:
        """What a caller is told."""
        return Unavailable(
            "the server has too many files open; try again", retry_after=RETRY_SECONDS
        )

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """An event loop's exception handler. asyncio tells of each accept, 2,000 times a second."""
        if not self.lack(context.get("exception")):
            loop.default_exception_handler(context)
