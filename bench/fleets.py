"""What many workers cost, idle and busy, and many callers that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench import wire
from bench.bed import Bed, Place, bed
from bench.figures import Figure
from bench.http import Connection
from bench.memory import rss_mb
from bench.processors import Shares, used
from bench.simulated_workers import Fleet
from bench.sizes import Size
from bench.wire import Wire

WORKERS = 1000
WAITERS = 10_000
CONNECTS_AT_ONCE = 200
POLL_SECONDS = 60.0
TOLD_SECONDS = 300.0
LATE_SECONDS = 300.0
"""How much later than they could all tasks may end."""
UNIT: Literal["% of a core"] = "% of a core"
RUN_SECONDS = 1.0
SETTLE_SECONDS = 3.0
BATCH = 1000
WAITED_SECONDS = 5.0
ONE = {"module": "math", "function": "sqrt", "args": [4]}


class Watched(Struct, frozen=True):
    """What a while cost."""

    seconds: float
    used: Shares
    exchanges: int

    def percent(self, seconds: float) -> float:
        """Of a core."""
        return 100 * seconds / self.seconds


def idle_workers(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """Workers that are told nothing: each renews its session by a parked exchange."""
    with bed(place, parent, workers=0) as made:
        watched = asyncio.run(_idle(made, size.watched_seconds))
    figures = [
        Figure(f"{WORKERS:,} idle workers: server", watched.percent(watched.used.server), UNIT)
    ]
    if made.databases:
        name = f"{WORKERS:,} idle workers: database"
        figures.append(Figure(name, watched.percent(watched.used.database), UNIT))
    return figures


async def _idle(bed: Bed, seconds: float) -> Watched:
    async with fleet_of(bed, WORKERS) as fleet:
        await asyncio.sleep(SETTLE_SECONDS)
        return await watch(bed, fleet, seconds)


async def watch(bed: Bed, fleet: Fleet, seconds: float) -> Watched:
    """What a while costs in which nothing is submitted."""
    before, exchanges, started = used(bed), fleet.exchanges, time.perf_counter()
    await asyncio.sleep(seconds)
    took = time.perf_counter() - started
    fleet.check()
    return Watched(took, used(bed).since(before), fleet.exchanges - exchanges)


class Busy(Struct, frozen=True):
    """What busy workers got done."""

    tasks: int
    run_seconds: float
    """Of each."""
    seconds: float
    used: Shares

    def kept_busy(self, workers: int) -> float:
        """Share of the workers' time in which they ran something."""
        return self.tasks * self.run_seconds / workers / self.seconds


def busy_workers(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """Workers with one slot each, and tasks of a second, all of which are queued before."""
    with bed(place, parent, workers=0) as made:
        busy = asyncio.run(_busy(made, size.busy_seconds))
    name = f"{WORKERS:,} busy workers, tasks of 1 s"
    percent = 100 * busy.used.server / busy.seconds
    return [
        Figure(f"{name}: share of time used", busy.kept_busy(WORKERS), "x"),
        Figure(f"{name}: server", percent, UNIT),
    ]


async def _busy(bed: Bed, seconds: float) -> Busy:
    async with fleet_of(bed, WORKERS, run_seconds=RUN_SECONDS) as fleet:
        return await watch_busy(bed, fleet, WORKERS, seconds)


async def watch_busy(bed: Bed, fleet: Fleet, workers: int, seconds: float) -> Busy:
    """Run tasks that keep workers of one slot busy for about so many seconds."""
    # One each first: before, the server cannot know how long they take.
    await asyncio.to_thread(submit, bed, workers)
    await fleet.until(workers, seconds=fleet.run_seconds + LATE_SECONDS)
    tasks = int(workers * seconds / fleet.run_seconds)
    before, started = used(bed), time.perf_counter()
    await asyncio.to_thread(submit, bed, tasks)
    await fleet.until(workers + tasks, seconds=seconds + LATE_SECONDS)
    took = time.perf_counter() - started
    return Busy(tasks, fleet.run_seconds, took, used(bed).since(before))


def submit(bed: Bed, tasks: int) -> list[str]:
    """Submit tasks in batches; gives their ids."""
    connection = bed.connect()
    ids: list[str] = []
    for start in range(0, tasks, BATCH):
        ids += _submit_batch(connection, min(BATCH, tasks - start))
    return ids


def _submit_batch(connection: Connection, tasks: int) -> list[str]:
    body = msgspec.json.encode([ONE] * tasks)
    ids: list[str] = msgspec.json.decode(connection.post("/v1/tasks", body))["ids"]
    return ids


@asynccontextmanager
async def fleet_of(bed: Bed, workers: int, *, run_seconds: float = 0.0) -> AsyncIterator[Fleet]:
    """Workers that have joined; let go when the block ends."""
    fleet = Fleet(bed.urls, bed.worker_token, run_seconds=run_seconds)
    try:
        await fleet.join(workers)
        yield fleet
    finally:
        fleet.close()


def waiting_callers(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """Long polls, each for a task of its own; then all tasks end as fast as they can."""
    with bed(place, parent, workers=0) as made:
        return asyncio.run(_wait_for_many(made))


async def _wait_for_many(bed: Bed) -> list[Figure]:
    ids = await asyncio.to_thread(submit, bed, WAITERS)
    before = sum(map(rss_mb, bed.servers))
    polls = _Polls()
    await polls.open(bed, ids)
    await asyncio.sleep(SETTLE_SECONDS)
    memory = sum(map(rss_mb, bed.servers)) - before
    async with fleet_of(bed, 0) as fleet:
        watched = await watch(bed, fleet, WAITED_SECONDS)
        started = time.perf_counter()
        await fleet.join(8, slots=64)
        async with asyncio.timeout(TOLD_SECONDS):
            await polls.heard
        took = time.perf_counter() - started
    polls.close()
    name = f"{WAITERS:,} waiting callers"
    return [
        Figure(f"{name}: server", watched.percent(watched.used.server), UNIT),
        Figure(f"{name}: memory", memory, "MB"),
        Figure(f"{name}: all told", WAITERS / took, "tasks/s"),
    ]


class _Polls:
    """Callers that each wait for one task."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wires: list[Wire] = []
        self._left = 0

    async def open(self, bed: Bed, tasks: Sequence[str]) -> None:
        """Begin to wait for each."""
        self._left = len(tasks)
        gate = asyncio.Semaphore(CONNECTS_AT_ONCE)

        async def begin(number: int, task: str) -> None:
            url = bed.urls[number % len(bed.urls)]
            async with gate:
                poll = await wire.connect(url, self._fail)
                # Heard from: no more than these stand in the queue of those to be accepted.
                accepted: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
                poll.ask(wire.get(url, bed.token, "/livez"), accepted.set_result)
                await accepted
            self._wires.append(poll)
            path = f"/v1/tasks/{task}?wait={POLL_SECONDS:.0f}"
            self._ask(poll, wire.get(url, bed.token, path))

        await asyncio.gather(*(begin(number, task) for number, task in enumerate(tasks)))

    def close(self) -> None:
        """Close all connections."""
        for each in self._wires:
            each.close()

    def _ask(self, poll: Wire, request: bytes) -> None:
        poll.ask(request, partial(self._hear, poll, request))

    def _hear(self, poll: Wire, request: bytes, body: bytes) -> None:
        if msgspec.json.decode(body)["state"] != "succeeded":  # the wait is over, not the task
            self._ask(poll, request)
            return
        self._left -= 1
        if not self._left and not self.heard.done():
            self.heard.set_result(None)

    def _fail(self, error: Exception) -> None:
        if not self.heard.done():
            self.heard.set_exception(error)
