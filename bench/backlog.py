"""Leasing from a long queue: life cycles on a store with many rows, beside one with none.

    python -m bench.backlog [--rows 1000000] [--rounds 20] [--spread]

`--spread` gives each queued task a due time of its own, as estimates do; else they are due in the
order of their submit.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from task_server.environments.lock import empty_lock
from task_server.protocol.ids import new_ids
from task_server.scheduling.statistics import guess
from task_server.store.contract import (
    AttemptReport,
    Dealt,
    ExchangeRequest,
    JoinRequest,
    KindSpec,
    LeaseKey,
    NewTask,
    Store,
    Submission,
    Used,
    WorkerFacts,
)
from task_server.store.opening import open_store
from task_server.store.states import Encoding

SIZE = 1000
LOAD = 5000
SPREAD_SECONDS = [10.0 * 2.0**power for power in range(-6, 9)]
"""What estimates add to the time a task became ready: ten times a power of two."""
EMPTY = empty_lock("3.11").digest
KIND = KindSpec(
    owner=1,
    function="sqrt",
    module="math",
    package=(),
    version=None,
    distribution="",
    python="3.11",
    request="empty 3.11",
    environment=EMPTY,
    pickle=None,
    timeout=None,
    max_attempts=1,
    backoff=1.0,
    retry_on=("exception",),
    priority=0,
    at_most_once=False,
    result_encoding="json",
    isolation="reuse",
    tags=(),
    plain=True,
)


class Rates(Struct, frozen=True):
    """Tasks a second of one round."""

    submit: float
    lease: float
    finish: float

    @property
    def cycle(self) -> float:
        """Tasks a second through all three."""
        return 1.0 / (1 / self.submit + 1 / self.lease + 1 / self.finish)


class Line:
    """A store, a user and a worker of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0
        self._worker = ""

    async def join(self) -> None:
        """Begin the worker's session."""
        facts = WorkerFacts(name="bench", slots=SIZE, pythons=("3.11",))
        self._worker = await self._store.join(JoinRequest(None, 1, facts, "bench"))

    async def submit(self, count: int) -> None:
        """Store tasks as one request does."""
        payload = b'"args":[4],"kwargs":{}'
        tasks = [NewTask(task, None, payload, 0) for task in new_ids(count)]
        await self._store.submit(Submission(1, [KIND], [guess(None, "guess")], tasks))

    async def exchange(
        self, reports: Sequence[AttemptReport] = (), *, want: int = 0
    ) -> list[Dealt]:
        """Report and ask; gives what was leased."""
        self._number += 1
        number = self._number
        request = ExchangeRequest(
            self._worker,
            "bench",
            1,
            number,
            number - 1,
            want,
            time.time(),
            False,
            list(reports),
            None,
            [],
        )
        return (await self._store.exchange(request)).tasks

    async def round(self) -> Rates:
        """Submit SIZE tasks, lease as many, and finish them."""
        began = time.perf_counter()
        await self.submit(SIZE)
        submitted = time.perf_counter()
        dealt: list[Dealt] = []
        while len(dealt) < SIZE:
            dealt += await self.exchange(want=SIZE - len(dealt))
        leased = time.perf_counter()
        await self.exchange([_succeeded(each) for each in dealt])
        ended = time.perf_counter()
        return Rates(
            SIZE / (submitted - began), SIZE / (leased - submitted), SIZE / (ended - leased)
        )


def _succeeded(dealt: Dealt) -> AttemptReport:
    lease = LeaseKey(dealt.number, dealt.attempt, dealt.secret)
    return AttemptReport(lease, "succeeded", Encoding.JSON, b"2.0", used=Used(run_seconds=0.0001))


async def _open(path: Path) -> Store:
    return await open_store(f"sqlite:///{path}", clock=time.time, lease_seconds=60.0)


async def _fill(path: Path, rows: int) -> None:
    store = await _open(path)
    line = Line(store)
    for start in range(0, rows, LOAD):
        await line.submit(min(LOAD, rows - start))
    await store.close()


def _spread(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.create_function("spread", 0, lambda: random.choice(SPREAD_SECONDS))
    with connection:
        connection.execute("UPDATE tasks SET due_at = ready_at + spread()")
    connection.close()


async def _measure(asked: argparse.Namespace, folder: Path) -> None:
    long, empty = folder / "long.db", folder / "empty.db"
    began = time.perf_counter()
    await _fill(long, asked.rows)
    print(f"{asked.rows:,} tasks submitted in {time.perf_counter() - began:.1f} s")
    if asked.spread:
        _spread(long)
    began = time.perf_counter()
    stores = [await _open(long), await _open(empty)]
    print(f"both stores opened in {time.perf_counter() - began:.2f} s")
    lines = [Line(store) for store in stores]
    for line in lines:
        await line.join()
        await line.round()
    rounds = [[await line.round() for line in lines] for _ in range(asked.rounds)]
    for name in ("submit", "lease", "finish", "cycle"):
        full, none = (
            statistics.median(getattr(rates[which], name) for rates in rounds) for which in (0, 1)
        )
        print(f"{name:7}{full:10,.0f} a second, {none:10,.0f} on the empty one: {full / none:.2f}x")
    for store in stores:
        await store.close()


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.backlog", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--spread", action="store_true")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(asked, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
