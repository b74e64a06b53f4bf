"""Huey with Redis, and a consumer of two processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import cast

from huey import RedisHuey

from bench.peers.processes import REDIS, Processes, program

URL = f"{os.environ[REDIS]}?socket_timeout=600"
"""With redis-py's default a wait for an answer ends after seconds."""
huey = RedisHuey("bench", url=URL, notify_result=True)


@huey.task()
def sqrt(number: float) -> float:
    """A no-op."""
    return math.sqrt(number)


@huey.task()
def echo(content: bytes) -> bytes:
    """There and back."""
    return content


class Peer:
    """A consumer."""

    def __init__(self, processes: Processes) -> None:
        consumer = program("huey_consumer")
        processes.start(consumer, "bench.peers.huey.huey", "-k", "process", "-w", "2", "-q")

    def submit(self, count: int) -> Iterator[float]:
        """A result each."""
        results = [sqrt(number) for number in range(count)]
        return (result.get(blocking=True) for result in results)

    def call(self, number: float) -> float:
        """One."""
        return cast(float, sqrt(number).get(blocking=True))

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, echo(content).get(blocking=True))

    def stop(self) -> None:
        """Its processes end by themselves."""
