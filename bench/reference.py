"""What everybody has: `concurrent.futures.ProcessPoolExecutor` with two processes."""

from __future__ import annotations

import copy
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

from bench.sizes import Size

PROCESSES = 2
TASKS = 5000

Reference = Callable[[ProcessPoolExecutor, Size], float]


@contextmanager
def reference() -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes are there already."""
    # Spawned, not forked: the benchmark has threads.
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        list(pool.map(math.sqrt, range(100)))
        yield pool


def submit_all(pool: ProcessPoolExecutor, size: Size) -> float:
    """Tasks a second, from the first submit to the last answer."""
    started = time.perf_counter()
    futures = [pool.submit(math.sqrt, n) for n in range(TASKS)]
    for n, future in enumerate(futures):
        assert future.result() == math.sqrt(n)
    return TASKS / (time.perf_counter() - started)


def one_by_one(pool: ProcessPoolExecutor, size: Size) -> float:
    """Milliseconds of one call after another: p50."""
    seconds = []
    for n in range(size.calls):
        started = time.perf_counter()
        pool.submit(math.sqrt, n).result()
        seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds)


def echo(length: int) -> Reference:
    """Milliseconds until so many bytes are there and back: p50."""

    def measure(pool: ProcessPoolExecutor, size: Size) -> float:
        seconds = []
        for _ in range(size.echoes(length)):
            content = os.urandom(length)
            started = time.perf_counter()
            answer = pool.submit(copy.copy, content).result()
            seconds.append(time.perf_counter() - started)
            assert answer == content
        return 1000 * statistics.median(seconds)

    return measure
