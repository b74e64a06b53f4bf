"""Celery with Redis as broker and result backend, pickles, and the prefork pool."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import cast

import celery

from bench.peers.processes import REDIS, Processes

app = celery.Celery("bench", broker=os.environ[REDIS], backend=os.environ[REDIS])
app.conf.update(
    task_serializer="pickle",
    result_serializer="pickle",
    accept_content=["pickle"],
    worker_prefetch_multiplier=64,  # as its documentation advises for short tasks
)
OPTIONS = ("--concurrency", "2", "--without-gossip", "--without-mingle", "--without-heartbeat")


@app.task
def sqrt(number: float) -> float:
    """A no-op."""
    return math.sqrt(number)


@app.task
def echo(content: bytes) -> bytes:
    """There and back."""
    return content


class Peer:
    """A worker of two processes."""

    def __init__(self, processes: Processes) -> None:
        os.environ["C_FORCE_ROOT"] = "1"  # pickles, also where everybody is root
        command = ("-m", "celery", "-A", "bench.peers.celery", "worker", "-l", "ERROR")
        processes.python(*command, *OPTIONS)

    def submit(self, count: int) -> Iterator[float]:
        """A result each."""
        results = [sqrt.delay(number) for number in range(count)]
        return (result.get() for result in results)

    def call(self, number: float) -> float:
        """One."""
        return cast(float, sqrt.delay(number).get())  # an answer may be anything

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, echo.delay(content).get())

    def stop(self) -> None:
        """Its processes end by themselves."""
