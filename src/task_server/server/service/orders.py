"""Environments that workers are to have ready: who is told what, and how far they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

from msgspec import Struct
from packaging.requirements import Requirement

from task_server.environments.requirements import EnvironmentRequest
from task_server.protocol.workers import Order, OrderState
from task_server.store.contract import Store
from task_server.store.records.orders import OrderReport, OrderRow
from task_server.store.sessions import LiveSession

MAXIMUM_REPORTS = 1000
"""Of one exchange."""
MAXIMUM_LOG = 8192
MOST_AHEAD = 8
"""Environments built at once because the queue needs them next."""

Orders = tuple[Order, ...]


class Needed(Struct, frozen=True):
    """An environment that queued tasks wait for."""

    environment: str
    python: str
    tasks: int


class OrderBook:
    """What each worker is to have ready, as of the last look, and what it was told.

    Exchanges ask it for news without waiting; `look` reads the store. Each server has one, for the
    workers that speak to it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._orders: dict[str, Orders] = {}
        self._others: Orders | None = ()
        """Of a worker that is not in `_orders`; None: not known yet."""
        self._told: dict[str, Orders] = {}

    def news(self, worker: str, *, is_listing: bool) -> Orders | None:
        """The full list for a worker; None if that was told.

        `is_listing`: the exchange lists what is held, so an earlier reply may be lost.
        """
        orders = self._orders.get(worker, self._others)
        if orders is None or (not is_listing and self._told.get(worker, ()) == orders):
            return None
        self._told[worker] = orders
        return orders

    async def look(self, now: float) -> None:
        """Learn what is wanted, and wake the workers that do not know it."""
        rows = await self._store.orders(now)
        needed = await self._needed()
        if not rows and not needed and not any(self._told.values()):
            self._orders, self._others, self._told = {}, (), {}
            return
        sessions = [each for each in await self._store.sessions() if not each.facts.is_plain]
        ahead = plan_ahead(needed, sessions)
        self._orders = {
            each.id: (*orders_for(each, rows), *ahead.get(each.id, ())) for each in sessions
        }
        self._others = None
        self._told = {worker: told for worker, told in self._told.items() if worker in self._orders}
        unaware = {
            each.worker for each in sessions if self._orders[each.id] != self._told.get(each.id, ())
        }
        if unaware:
            self._store.release_parked(unaware)

    async def _needed(self) -> list[Needed]:
        tasks: Counter[tuple[str, str]] = Counter()
        for kind, count in await self._store.queued(None):
            environment = self._store.environment_of(kind.spec.request)
            if environment is not None and kind.spec.package:
                tasks[environment, kind.spec.python] += count
        return [Needed(*key, count) for key, count in tasks.most_common(MOST_AHEAD)]

    async def note(self, worker: str, states: Sequence[OrderState], *, now: float) -> None:
        """Keep what a worker tells of its orders."""
        reports = [_report(state) for state in states[:MAXIMUM_REPORTS]]
        known = [report for report in reports if report is not None]
        if known:
            await self._store.note_orders(worker, known, now=now)


def _report(state: OrderState) -> OrderReport | None:
    number, _, times = state.order.partition(".")
    if not (number.isdecimal() and times.isdecimal() and len(state.order) < 19):
        return None
    log = state.log.replace("\0", "").encode(errors="replace")[:MAXIMUM_LOG]
    return OrderReport(int(number), int(times), state.state, log.decode(errors="ignore"))


def concerns(row: OrderRow, session: LiveSession) -> bool:
    """Whether an order means this worker: by its labels, and by the Pythons that it has."""
    has_labels = row.labels.items() <= session.facts.labels.items()
    return has_labels and (not row.request or row.python in session.facts.pythons)


def orders_for(session: LiveSession, rows: Iterable[OrderRow]) -> list[Order]:
    """What a worker is told of these orders."""
    return [
        Order(
            order=f"{row.number}.{row.round}",
            environment=row.environment,
            packages=packages_of(row.request),
            modules=list(row.modules),
        )
        for row in rows
        if concerns(row, session) and (row.environment is not None or not row.request)
    ]


def packages_of(request: str) -> list[str]:
    """Names of the distributions that an environment request asks for."""
    if not request.startswith("python "):
        return []
    requirements = EnvironmentRequest.from_text(request).requirements
    return [Requirement(text).name for text in requirements]


def plan_ahead(
    needed: Iterable[Needed], sessions: Sequence[LiveSession]
) -> Mapping[str, Sequence[Order]]:
    """Which workers are to build what the queue needs next; by worker.

    As many have an environment as there are tasks for it, and none builds one while another that
    has it is free.
    """
    plan: dict[str, list[Order]] = {}
    for each in needed:
        fitting = [session for session in sessions if each.python in session.facts.pythons]
        having = [s for s in fitting if s.environments.get(each.environment) in HAVING]
        if any(session.running < session.facts.slots for session in having):
            continue
        lacking = [s for s in fitting if s.environments.get(each.environment) in (None, "removed")]
        lacking.sort(key=lambda session: _lot(each.environment, session.id))
        for session in lacking[: max(each.tasks - len(having), 0)]:
            order = Order(order="", environment=each.environment)
            plan.setdefault(session.id, []).append(order)
    return plan


HAVING = ("ready", "building")


def _lot(environment: str, worker: str) -> bytes:
    """The same at every look and every server, so that no build is begun in vain."""
    return blake2b(f"{environment} {worker}".encode(), digest_size=8).digest()
