"""Calls to simulate: recorded ones, and a trace that is made here."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from task_server.prediction.predictor import Call

SHORTEST = 1e-4
"""Seconds; what a recorded call takes at least."""


class Job(Struct, eq=False):
    """A call with the time that it takes, as it goes through a simulation."""

    call: Call
    seconds: float
    ready_at: float = 0.0
    owner: int = 1
    environment: str = "e"
    predicted: float = 0.0
    predicted_high: float = 0.0
    started_at: float = 0.0
    ended_at: float = 0.0
    work_ahead: float = 0.0
    """Seconds of work, waiting and running, that was there when it came."""

    @property
    def wait(self) -> float:
        """Seconds from when it was ready until it started."""
        return self.started_at - self.ready_at


def recorded(path: Path, *, limit: int | None = None) -> list[Job]:
    """The calls of a trace: a line of JSON each with function, args, kwargs, worker, runtime."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines][:limit]
    return [
        Job(
            Call(
                row["function"],
                row.get("args", ()),
                row.get("kwargs", {}),
                row.get("worker"),
                row.get("versions"),
            ),
            max(row["runtime"], SHORTEST),
        )
        for row in rows
    ]


def made(count: int = 3000, *, seed: int = 7) -> list[Job]:
    """Twenty functions, from milliseconds to a minute; most depend on their arguments."""
    random_ = random.Random(seed)
    functions = [
        (
            f"made.f{number}",
            math.exp(random_.uniform(math.log(0.002), math.log(2.0))),
            random_.choice([0.0, 0.0, 1.0, 1.0, 2.0]),
            random_.uniform(0.02, 0.3),
        )
        for number in range(20)
    ]
    jobs = []
    for _ in range(count):
        name, scale, power, noise = functions[min(int(random_.expovariate(0.25)), 19)]
        size = random_.choice([1, 2, 5, 10, 20, 30])
        seconds = scale * size**power / 10 ** (power / 2)
        seconds = min(seconds, 60.0) * math.exp(random_.gauss(0.0, noise))
        jobs.append(Job(Call(name, (size,)), max(seconds, SHORTEST)))
    return jobs


def arriving(jobs: Sequence[Job], *, slots: int, load: float, seed: int = 1) -> list[Job]:
    """The same calls, coming at random moments at which `slots` are busy for that share of time."""
    random_ = random.Random(seed)
    mean = sum(job.seconds for job in jobs) / len(jobs)
    now = 0.0
    found = []
    for job in jobs:
        now += random_.expovariate(load * slots / mean)
        found.append(Job(job.call, job.seconds, now, job.owner, job.environment))
    return found
