"""What everybody has: `concurrent.futures.ProcessPoolExecutor` with two processes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from bench.figures import Figure

PROCESSES = 2


@contextmanager
def reference() -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are there already."""
    # Spawned, not forked: the benchmark has threads.
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(math.sqrt, range(100)))
        yield pool


def measure(pool: ProcessPoolExecutor, *, tasks: int, calls: int) -> list[Figure]:
    """Tasks a second when all are submitted at once, and the time of one call after another."""
    started = time.perf_counter()
    futures = [pool.submit(math.sqrt, n) for n in range(tasks)]
    for n, future in enumerate(futures):
        assert future.result() == math.sqrt(n)
    rate = tasks / (time.perf_counter() - started)
    seconds = []
    for n in range(calls):
        started = time.perf_counter()
        pool.submit(math.sqrt, n).result()
        seconds.append(time.perf_counter() - started)
    return [
        Figure("reference: submit all", rate, "tasks/s"),
        Figure("reference: one by one", 1000 * statistics.median(seconds), "ms"),
    ]
