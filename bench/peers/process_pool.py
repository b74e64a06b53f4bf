"""The reference itself: `ProcessPoolExecutor(2)`."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from bench.peers.processes import Processes


class Peer:
    """Two spawned processes."""

    def __init__(self, processes: Processes) -> None:
        self._pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))

    def submit(self, count: int) -> Iterator[float]:
        """A future each."""
        futures = [self._pool.submit(math.sqrt, number) for number in range(count)]
        return (future.result() for future in futures)

    def call(self, number: float) -> float:
        """One."""
        return self._pool.submit(math.sqrt, number).result()

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return self._pool.submit(copy.copy, content).result()

    def stop(self) -> None:
        """End the processes."""
        self._pool.shutdown()
