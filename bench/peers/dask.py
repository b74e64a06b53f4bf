"""Dask's distributed scheduler and two workers with a thread each."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import cast

from distributed import Client

from bench.peers.processes import Processes, free_port, program

AT_ONCE = 1000
"""Answers gathered together."""


class Peer:
    """Three processes."""

    def __init__(self, processes: Processes) -> None:
        port = free_port()
        address, host = f"tcp://127.0.0.1:{port}", ("--host", "127.0.0.1", "--no-dashboard")
        dask = program("dask")
        processes.start(dask, "scheduler", "--port", str(port), *host)
        processes.await_port(port)
        folder = ("--local-directory", str(processes.folder))
        for _ in range(2):
            processes.start(
                dask, "worker", address, "--nthreads", "1", "--no-nanny", *host, *folder
            )
        self._client = Client(address)
        self._client.wait_for_workers(2, timeout=60)

    def submit(self, count: int) -> Iterator[float]:
        """A future each."""
        return self._answers(self._client.map(math.sqrt, range(count), pure=False))

    def call(self, number: float) -> float:
        """One."""
        return cast(float, self._client.submit(math.sqrt, number, pure=False).result())

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, self._client.submit(copy.copy, content, pure=False).result())

    def _answers(self, futures: Sequence[object]) -> Iterator[float]:
        for start in range(0, len(futures), AT_ONCE):
            yield from self._client.gather(futures[start : start + AT_ONCE])

    def stop(self) -> None:
        """Close the client."""
        self._client.close()
