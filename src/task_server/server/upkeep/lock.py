"""Locks environments that tasks wait for, a few at a time, in the background."""

from __future__ import annotations

import asyncio
import logging

from task_server.environments.requirements import EnvironmentRequest
from task_server.errors import Unavailable
from task_server.server.service.resolve import Resolver
from task_server.server.state import State
from task_server.server.uv_lock import LockFailed

log = logging.getLogger(__name__)

AT_ONCE = 2
MAXIMUM_TRIES = 5
FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0


class Locker:
    """Works off the environment requests of the store."""

    def __init__(self, state: State, resolver: Resolver) -> None:
        self._state = state
        self._resolver = resolver
        self._news = asyncio.Event()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._in_vain: dict[str, int] = {}
        """How often the index was away when a request's versions were asked for."""

    def wake(self) -> None:
        """There are new requests."""
        self._news.set()

    async def run(self) -> None:
        """Lock until cancelled."""
        try:
            await self._go_on()
        finally:
            for task in self._running.values():
                task.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _go_on(self) -> None:
        self._news.set()
        while True:
            # Requests that wait for another try come back with the clock.
            waiter = asyncio.ensure_future(self._news.wait())
            await asyncio.wait((waiter,), timeout=FIRST_WAIT_SECONDS)
            waiter.cancel()
            self._news.clear()
            try:
                # One server is enough; whatever another one locks meanwhile, the first lock counts.
                if await self._state.store.leads():
                    await self._start()
            except Unavailable as error:
                log.warning("locking goes on later: %s", error)

    async def _start(self) -> None:
        requests = await self._state.store.open_requests(self._state.clock())
        for text, _, tries in requests:
            if len(self._running) >= AT_ONCE:
                return
            if text not in self._running:
                task = asyncio.ensure_future(self._lock(text, tries))
                self._running[text] = task
                task.add_done_callback(lambda _, text=text: self._ended(text))  # type: ignore[misc]

    def _ended(self, text: str) -> None:
        del self._running[text]
        self._news.set()

    async def _lock(self, text: str, tries: int) -> None:
        try:
            await self._lock_and_tell(text, tries)
        except Unavailable as error:
            log.warning("the lock of %r is made again: %s", text, error)

    async def _lock_and_tell(self, text: str, tries: int) -> None:
        store = self._state.store
        try:
            found = await self._resolver.resolve(EnvironmentRequest.from_text(text))
        except LockFailed as error:
            await self._failed(text, tries, error)
            return
        self._in_vain.pop(text, None)
        await store.locked(text, environment=found.digest, python=found.python, lock=found.text)

    async def _failed(self, text: str, tries: int, error: LockFailed) -> None:
        wait = self._wait_seconds(text, tries, error)
        if wait is None:
            log.info("lock of %r failed for good", text)
            self._in_vain.pop(text, None)
            await self._state.store.lock_failed(text, error.message)
            return
        log.warning("lock of %r failed, again in %.0f s: %s", text, wait, error.message)
        await self._state.store.lock_later(
            text,
            at=self._state.clock() + wait,
            reason=error.message.partition("\n")[0],
            counts=not error.is_away,
        )

    def _wait_seconds(self, text: str, tries: int, error: LockFailed) -> float | None:
        """Until the next try; None: there is none. An index that is away is asked for ever."""
        if error.is_away:
            tries = self._in_vain[text] = self._in_vain.get(text, 0) + 1
            return min(FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 16), LONGEST_WAIT_SECONDS)
        if error.is_retryable and tries + 1 < MAXIMUM_TRIES:
            return FIRST_WAIT_SECONDS * 2.0**tries
        return None
