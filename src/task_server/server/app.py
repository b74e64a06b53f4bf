"""Wiring: settings become a running server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from task_server.environments.lock import Lock
from task_server.errors import Unavailable
from task_server.options import weights_of
from task_server.server.access import Access, everyone_is
from task_server.server.api import (
    batches,
    blobs,
    capacity,
    environments,
    estimates,
    events,
    exchange,
    explain,
    functions,
    health,
    packages,
    plain,
    refresh,
    tasks,
)
from task_server.server.bodies import Bodies
from task_server.server.clock import Clock
from task_server.server.descriptors import Descriptors
from task_server.server.estimator.process import EstimatorProcess
from task_server.server.etas import BatchEtas
from task_server.server.refusals import Refusals
from task_server.server.routing import Edge
from task_server.server.service.orders import OrderBook
from task_server.server.service.refresh import Refreshes
from task_server.server.service.resolve import Resolver
from task_server.server.service.specs import Specs
from task_server.server.service.uploads import Uploads
from task_server.server.state import State
from task_server.server.upkeep.budget import Budget
from task_server.server.upkeep.expire import SWEEP_SECONDS, Expiry
from task_server.server.upkeep.first_reads import FirstReads
from task_server.server.upkeep.learn import Teacher
from task_server.server.upkeep.lock import Locker
from task_server.server.upkeep.orders import keep_orders
from task_server.server.upkeep.prune import Pruner
from task_server.server.upkeep.refine import Refiner
from task_server.server.upkeep.space import Space
from task_server.server.upkeep.totals import Totals
from task_server.server.waiting import Waiting
from task_server.settings import ServerSettings
from task_server.store.blobs import open_blobs
from task_server.store.opening import folder_of, is_postgres, open_store
from task_server.store.records.retention import Keep
from task_server.store.rows import Ended
from task_server.store.transitions import Policy

log = logging.getLogger(__name__)

ROUTES = [
    # The hot ones first: routes are tried in order.
    exchange.ROUTES[0],
    *tasks.ROUTES,
    *batches.ROUTES,
    *plain.ROUTES,
    *exchange.ROUTES[1:],
    *blobs.ROUTES,
    *estimates.ROUTES,
    *events.ROUTES,
    *capacity.ROUTES,
    *functions.ROUTES,
    *explain.ROUTES,
    *refresh.ROUTES,
    *environments.ROUTES,
    *packages.ROUTES,
    *health.ROUTES,
]
EVERYONE = "everyone"
"""The owner of all tasks on a server without authentication."""


def _all_of(*hear: Callable[[Sequence[Ended]], None]) -> Callable[[Sequence[Ended]], None]:
    """Tells each of them of what has ended."""

    def tell(ended: Sequence[Ended]) -> None:
        for each in hear:
            each(ended)

    return tell


@asynccontextmanager
async def running(
    settings: ServerSettings, *, on_broken: Callable[[], None]
) -> AsyncIterator[tuple[State, Edge]]:
    """A server's parts, at work until the block ends. `on_broken`: the database failed."""
    clock = Clock()
    space = Space(settings, folder_of(settings.database_url))
    space.begin()
    blob_store = await open_blobs(settings)  # before the database, which would have to be closed
    store = await open_store(
        settings.database_url,
        clock=clock,
        lease_seconds=settings.lease_seconds,
        policy=Policy(
            by_prediction=settings.order == "predicted",
            by_placement=settings.placement == "on",
            reserves_memory=settings.reserve_memory == "on",
            deals_ahead=settings.lease_sizes == "predicted",
            shares_fairly=settings.fair_share == "on",
            share_weights=tuple(weights_of(settings.share_weights).items()),
            limits_by_prediction=settings.auto_timeout == "predicted",
        ),
        on_broken=on_broken,
        on_time=clock.agree,
    )
    everyone = None
    if settings.auth == "none":
        everyone = everyone_is(await store.owner_named(EVERYONE))
    resolver = Resolver(store, settings)
    default_python = f"{sys.version_info.major}.{sys.version_info.minor}"

    async def keep_refreshed(request: str, lock: Lock) -> None:
        await store.refresh(
            request, environment=lock.digest, python=lock.python, lock=lock.text, now=clock()
        )

    state = State(
        settings=settings,
        clock=clock,
        store=store,
        blobs=blob_store,
        access=Access(store.token, everyone=everyone),
        waiting=Waiting(),
        bodies=Bodies(settings.bodies_bytes),
        descriptors=Descriptors(),
        space=space,
        budget=Budget(settings.storage_bytes, store),
        first_reads=FirstReads(store, clock),
        orders=OrderBook(store),
        uploads=Uploads(
            store.package_mark,
            store.package_contents,
            waits_for_others=is_postgres(settings.database_url),
        ),
        policy=settings.policy,
        specs=Specs(default_python=default_python, policy=settings.policy),
        refreshes=Refreshes(
            store.refresh_mark,
            store.refreshed,
            resolve=resolver.resolve,
            keep=keep_refreshed,
            is_shared=is_postgres(settings.database_url),
        ),
        etas=BatchEtas(clock),
        refusals=Refusals(),
        totals=Totals(store),
        estimator=EstimatorProcess(is_on=settings.model == "on"),
        keep=Keep(
            settings.keep_read_seconds, settings.keep_unread_seconds, settings.keep_failed_seconds
        ),
        default_python=default_python,
    )
    locker = Locker(state, resolver)
    teacher = Teacher(state)
    store.on_ended = _all_of(state.waiting.publish, teacher.hear)
    store.on_changed = state.waiting.touch_all
    store.watched = state.waiting.watched
    store.on_new_requests = locker.wake
    store.on_full = state.blobs.on_full = space.make_room
    interval = min(SWEEP_SECONDS, settings.lease_seconds / 6)
    await state.budget.measure()
    loops = [
        asyncio.ensure_future(Expiry(store, clock).keep(interval)),
        asyncio.ensure_future(space.keep()),
        asyncio.ensure_future(locker.run()),
        asyncio.ensure_future(state.budget.keep()),
        asyncio.ensure_future(state.first_reads.keep()),
        asyncio.ensure_future(state.totals.keep()),
        asyncio.ensure_future(Pruner(state).run()),
        asyncio.ensure_future(keep_orders(state)),
        asyncio.ensure_future(state.estimator.run()),
        asyncio.ensure_future(teacher.run()),
        asyncio.ensure_future(Refiner(state, teacher).run()),
    ]
    try:
        yield state, Edge(state, ROUTES)
    finally:
        with contextlib.suppress(Unavailable):
            await teacher.close()
        for loop in loops:
            loop.cancel()
        for loop in loops:
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        with contextlib.suppress(Unavailable):
            await state.first_reads.flush()
            await state.totals.flush()
        await store.close()
