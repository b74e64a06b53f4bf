"""Making a lock anew on purpose, and remembering which requests that was done for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from task_server.environments.lock import Lock
from task_server.environments.requirements import EnvironmentRequest
from task_server.errors import CannotLock, Unavailable
from task_server.server.uv_lock import LockFailed

FRESH_SECONDS = 2.0
AT_ONCE = 2

Resolve = Callable[[EnvironmentRequest], Awaitable[Lock]]
Keep = Callable[[str, Lock], Awaitable[None]]


class Refreshes:
    """Locks that were made anew: text of a request -> digest of the lock that counts.

    `is_shared`: other servers share the database; what they refresh is known a little later.
    """

    def __init__(
        self,
        mark: Callable[[], Awaitable[tuple[int, float]]],
        listed: Callable[[], Awaitable[dict[str, str]]],
        *,
        resolve: Resolve,
        keep: Keep,
        is_shared: bool,
    ) -> None:
        self._mark = mark
        self._listed = listed
        self._resolve = resolve
        self._keep = keep
        self._is_shared = is_shared
        self._known: dict[str, str] = {}
        self._seen: tuple[int, float] | None = None
        self._read_at = float("-inf")
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def known(self) -> Mapping[str, str]:
        """All of them."""
        is_stale = self._is_shared and time.monotonic() - self._read_at > FRESH_SECONDS
        if self._seen is None or is_stale:
            await self._read()
        return self._known

    async def refresh(self, request: EnvironmentRequest) -> Lock:
        """Resolve a request anew: tasks submitted from now on get the new lock.

        Raises CannotLock, or Unavailable when a later try may help.
        """
        async with self._turns:
            try:
                lock = await self._resolve(request)
            except LockFailed as error:
                if error.is_retryable:
                    raise Unavailable(error.message, retry_after=10.0) from None
                raise CannotLock(error.message, field="package") from None
        await self._keep(request.text, lock)
        await self._read()
        return lock

    async def _read(self) -> None:
        self._read_at = time.monotonic()
        mark = await self._mark()
        if mark != self._seen:
            self._known, self._seen = await self._listed(), mark
