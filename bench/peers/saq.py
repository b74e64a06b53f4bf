"""saq with Redis, and two worker processes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pickle
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from saq import Job, Queue

from bench.peers.processes import REDIS, Processes

LISTEN_SECONDS = 0.5
AT_ONCE = 1000
"""Jobs submitted and waited for together."""
T = TypeVar("T")


async def sqrt(context: object, *, number: float) -> float:
    """A no-op."""
    return math.sqrt(number)


async def echo(context: object, *, content: bytes) -> bytes:
    """There and back."""
    return content


queue = Queue.from_url(os.environ[REDIS], dump=pickle.dumps, load=pickle.loads)
settings = {"queue": queue, "functions": [sqrt, echo], "concurrency": 10}
"""Of its workers."""


class Peer:
    """Two workers."""

    def __init__(self, processes: Processes) -> None:
        for _ in range(2):
            processes.python("-m", "saq", "bench.peers.saq.settings")
        self._loop = asyncio.new_event_loop()
        self._do(queue.connect())

    def submit(self, count: int) -> Iterator[float]:
        """A job each; many are enqueued and waited for at once."""
        jobs: list[Job] = []
        for start in range(0, count, AT_ONCE):
            jobs += self._do(_enqueued(range(start, min(start + AT_ONCE, count))))
        return self._answers(jobs)

    def _answers(self, jobs: Sequence[Job]) -> Iterator[float]:
        for start in range(0, len(jobs), AT_ONCE):
            yield from self._do(_gathered(jobs[start : start + AT_ONCE]))

    def call(self, number: float) -> float:
        """One."""
        return cast(float, self._do(_answer("sqrt", number=number)))

    def echo(self, content: bytes) -> bytes:
        """There and back."""
        return cast(bytes, self._do(_answer("echo", content=content)))

    def stop(self) -> None:
        """Close the client."""
        self._do(queue.disconnect())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)


async def _answer(function: str, **arguments: object) -> object:
    return await _ended(await _enqueue(function, **arguments))


async def _enqueue(function: str, **arguments: object) -> Job:
    job = await queue.enqueue(function, timeout=0, **arguments)
    if job is None:
        raise RuntimeError("a job was not taken")
    return job


async def _ended(job: Job) -> object:
    """Told by Redis when it has; the library's own `apply` looks twice a second."""
    while not job.completed:
        # It may look just before the job ends and listen just after: then it would wait on.
        with contextlib.suppress(TimeoutError):
            await job.refresh(until_complete=LISTEN_SECONDS)
    return job.result


async def _enqueued(numbers: Iterable[int]) -> list[Job]:
    return await asyncio.gather(*(_enqueue("sqrt", number=number) for number in numbers))


async def _gathered(jobs: Iterable[Job]) -> list[float]:
    return cast(list[float], await asyncio.gather(*map(_ended, jobs)))
