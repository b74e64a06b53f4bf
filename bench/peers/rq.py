"""RQ with Redis, and two of its workers that do not fork."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator
from typing import cast

import rq
from redis import Redis
from rq.job import Job

from bench.peers.processes import REDIS, Processes, program

SECONDS = 120


class Peer:
    """Two workers."""

    def __init__(self, processes: Processes) -> None:
        url = os.environ[REDIS]
        command = (program("rq"), "worker", "-q", "-w", "rq.worker.SimpleWorker", "-u", url)
        for _ in range(2):
            processes.start(*command)
        self._queue = rq.Queue(connection=Redis.from_url(url, socket_timeout=600))

    def submit(self, count: int) -> Iterator[float]:
        """All jobs in one pipeline."""
        asked = [rq.Queue.prepare_data(math.sqrt, (number,)) for number in range(count)]
        jobs = self._queue.enqueue_many(asked)
        return (cast(float, _answer(job)) for job in jobs)

    def call(self, number: float) -> float:
        """One."""
        return cast(float, _answer(self._queue.enqueue(math.sqrt, number)))

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, _answer(self._queue.enqueue(copy.copy, content)))

    def stop(self) -> None:
        """Its processes end by themselves."""


def _answer(job: Job) -> object:
    result = job.latest_result(timeout=SECONDS)
    if result is None or result.type is not result.Type.SUCCESSFUL:
        raise RuntimeError(f"a job did not succeed: {result}")
    return result.return_value
