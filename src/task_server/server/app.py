"""Wiring: settings become a running server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from task_server.server.access import Access, everyone_is
from task_server.server.api import (
    batches,
    blobs,
    environments,
    estimates,
    exchange,
    health,
    plain,
    tasks,
)
from task_server.server.clock import Clock
from task_server.server.routing import Edge
from task_server.server.state import State
from task_server.server.upkeep.expire import SWEEP_SECONDS, keep_expiring
from task_server.server.upkeep.lock import Locker
from task_server.server.waiting import Waiting
from task_server.settings import ServerSettings
from task_server.store.blobs import Blobs
from task_server.store.opening import open_store

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
    *environments.ROUTES,
    *health.ROUTES,
]
EVERYONE = "everyone"
"""The owner of all tasks on a server without authentication."""


@asynccontextmanager
async def running(
    settings: ServerSettings, *, on_broken: Callable[[], None]
) -> AsyncIterator[tuple[State, Edge]]:
    """A server's parts, at work until the block ends. `on_broken`: the database failed."""
    clock = Clock()
    store = await open_store(
        settings.database_url,
        clock=clock,
        lease_seconds=settings.lease_seconds,
        on_broken=on_broken,
    )
    everyone = None
    if settings.auth == "none":
        everyone = everyone_is(await store.owner_named(EVERYONE))
    state = State(
        settings=settings,
        clock=clock,
        store=store,
        blobs=Blobs(settings.data.expanduser() / "blobs", maximum_bytes=settings.blob_bytes),
        access=Access(store.token, everyone=everyone),
        waiting=Waiting(),
        default_python=f"{sys.version_info.major}.{sys.version_info.minor}",
    )
    locker = Locker(state)
    store.on_ended = state.waiting.publish
    store.on_new_requests = locker.wake
    interval = min(SWEEP_SECONDS, settings.lease_seconds / 4)
    loops = [
        asyncio.ensure_future(keep_expiring(store, clock, interval=interval)),
        asyncio.ensure_future(locker.run()),
    ]
    try:
        yield state, Edge(state, ROUTES)
    finally:
        for loop in loops:
            loop.cancel()
        for loop in loops:
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        await store.close()
