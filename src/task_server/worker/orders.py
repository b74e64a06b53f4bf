"""What the server wants to have ready here before its tasks come: built one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

from task_server.errors import RequestError, ServerUnreachable
from task_server.protocol.workers import Order, OrderState
from task_server.worker.environments import BuildFailed, Environment, Environments, FetchLock
from task_server.worker.imports import Imports

log = logging.getLogger(__name__)

TRIES: Final = 3
PAUSE_SECONDS: Final = 2.0
AGAIN_SECONDS: Final = 60.0
"""After a failure that may be over later."""
REACH_SECONDS: Final = 5.0
"""Between tries to fetch a lock from a server that does not answer."""


class Orders:
    """Carries out orders in the background, at low priority, each once.

    `collect` removes what is unused and says what that was. `on_news` is called when there is
    something to tell the server.
    """

    def __init__(
        self,
        environments: Environments,
        imports: Imports,
        fetch_lock: FetchLock,
        *,
        on_news: Callable[[], None],
        collect: Callable[[], Awaitable[str]] | None = None,
        pause_seconds: float = PAUSE_SECONDS,
        again_seconds: float = AGAIN_SECONDS,
    ) -> None:
        self._environments = environments
        self._imports = imports
        self._fetch_lock = fetch_lock
        self._on_news = on_news
        self._collect = collect
        self._pause_seconds = pause_seconds
        self._again_seconds = again_seconds
        self._timers: list[asyncio.TimerHandle] = []
        self.news: dict[str, OrderState] = {}
        """What the server does not know yet, by order."""
        self._orders: dict[str, Order] = {}
        self._queue: deque[str] = deque()
        self._working: asyncio.Task[None] | None = None

    @property
    def wanted(self) -> set[str]:
        """Digests of the environments that are to stay."""
        return {order.environment for order in self._orders.values() if order.environment}

    def take(self, orders: Sequence[Order]) -> None:
        """These are all there are now. What has begun is finished."""
        before, self._orders = self._orders, {_key(order): order for order in orders}
        self._queue = deque(key for key in self._queue if key in self._orders)
        self._queue += [key for key in self._orders if key not in before]
        self._begin()

    def _begin(self) -> None:
        if self._queue and (self._working is None or self._working.done()):
            self._working = asyncio.ensure_future(self._work())

    def note_told(self, told: Sequence[OrderState]) -> None:
        """The server has heard this."""
        for state in told:
            if self.news.get(state.order) is state:
                del self.news[state.order]

    async def close(self) -> None:
        """End what is under way."""
        for timer in self._timers:
            timer.cancel()
        if self._working is not None:
            self._working.cancel()
            await asyncio.gather(self._working, return_exceptions=True)

    async def _work(self) -> None:
        while self._queue:
            order = self._orders[self._queue.popleft()]
            try:
                await self._carry_out(order)
            except (BuildFailed, RequestError, OSError) as error:
                log.warning("environment %s cannot be prepared: %s", order.environment, error)
                self._tell(order, "failed", str(error))
                if isinstance(error, BuildFailed) and error.is_retryable and order.order:
                    self._again_later(_key(order))

    def _again_later(self, key: str) -> None:
        """What failed may work later: as long as it is ordered, it is tried."""

        def again() -> None:
            if key in self._orders and key not in self._queue:
                self._queue.append(key)
                self._begin()

        self._timers = [timer for timer in self._timers if timer.when() > self._time()]
        self._timers.append(asyncio.get_running_loop().call_later(self._again_seconds, again))

    def _time(self) -> float:
        return asyncio.get_running_loop().time()

    async def _carry_out(self, order: Order) -> None:
        if order.environment is None:
            self._tell(order, "ready", await self._collect() if self._collect else "")
            return
        self._tell(order, "building")
        environment = await self._build(order.environment)
        if not order.order:
            return
        self._tell(order, "importing")
        problem = await self._imports.problem(
            environment, modules=order.modules, packages=order.packages
        )
        self._tell(order, "failed" if problem else "ready", problem)

    async def _build(self, digest: str) -> Environment:
        tries = TRIES
        while True:
            try:
                return await self._environments.ready(digest, self._fetch_lock, is_urgent=False)
            except ServerUnreachable:
                await asyncio.sleep(REACH_SECONDS)
            except BuildFailed as error:
                tries -= 1
                if not tries or error.is_unfit or not error.is_retryable:
                    raise
                await asyncio.sleep(self._pause_seconds)

    def _tell(
        self,
        order: Order,
        state: Literal["building", "importing", "ready", "failed"],
        text: str = "",
    ) -> None:
        if order.order:
            self.news[order.order] = OrderState(order.order, state, text)
            self._on_news()


def _key(order: Order) -> str:
    return order.order or order.environment or ""
