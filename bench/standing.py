"""What stands in memory: idle, and after many tasks."""

from __future__ import annotations

import time
from pathlib import Path

from bench.bed import Bed, Place, bed
from bench.figures import Figure
from bench.memory import pss_mb, rss_mb
from bench.processors import below
from bench.scenarios import run_batch
from bench.sizes import Size

WARM_BATCHES = 2
"""Start both runners."""
IDLE_SECONDS = 3.0
LONG_IDLE_SECONDS = 45.0
"""An estimator that nobody used for half a minute has saved what it learned, and ended."""
FEW_TASKS = 100_000
MANY_TASKS = 1_000_000
BATCH = 1000


def idle_memory(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """Server, worker and two runners that have run something, and now do nothing."""
    with bed(place, parent) as made:
        connection = made.connect()
        for _ in range(WARM_BATCHES):
            run_batch(connection, BATCH)
        time.sleep(IDLE_SECONDS)
        early = _pss_of_all(made)
        time.sleep(LONG_IDLE_SECONDS)
        late = _pss_of_all(made)
    servers, workers = len(made.servers), len(made.agents)
    name = "idle: server, worker, 2 runners (PSS)"
    if servers > 1:
        name = f"idle: {servers} servers, {workers} workers, 2 runners (PSS)"
    return [Figure(name, late, "MB"), Figure(f"{name}, and the estimator", early, "MB")]


def _pss_of_all(bed: Bed) -> float:
    return pss_mb([*bed.servers, *below(bed.servers), *bed.agents, *below(bed.agents)])


def memory_after_many(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """The server's memory after many tasks beside that after a tenth of them."""
    with bed(place, parent) as made:
        few = _rss_after(made, FEW_TASKS)
        many = _rss_after(made, MANY_TASKS - FEW_TASKS)
    return [
        Figure(f"RSS after {FEW_TASKS:,} tasks", few, "MB"),
        Figure(f"RSS after {MANY_TASKS:,} tasks", many, "MB"),
        Figure(
            f"RSS after {MANY_TASKS:,} tasks to after {FEW_TASKS:,}",
            many / few,
            "x",
            is_best_high=False,
        ),
    ]


def _rss_after(bed: Bed, tasks: int) -> float:
    connection = bed.connect()
    for _ in range(tasks // BATCH):
        run_batch(connection, BATCH)
    time.sleep(IDLE_SECONDS)
    return sum(map(rss_mb, bed.servers))
