"""What the estimator costs: batches of no-ops on a server with it and on one without it.

    python -m bench.model [--rounds 6] [--batches 20]

The two servers run at once and take turns, so that other work on the machine meets both alike.
Processor time is what counts; the rates are shown beside it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from statistics import median, quantiles

from msgspec import Struct

from bench.bed import Bed, bed
from bench.processors import used
from bench.scenarios import ONE, run_batch, run_call

TASKS = 1000
"""Of one batch."""
CALLS = 200
"""One by one, after the batches of a turn."""


class Turn(Struct, frozen=True):
    """Some batches at one server; microseconds of processor time a task."""

    server: float
    estimator: float
    seconds: float
    """From the first submit to the last answer."""
    tasks: int
    waits: list[float]
    """Seconds of single calls from submit to answer, while batches are still learned from."""


def main(arguments: Sequence[str]) -> int:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--batches", type=int, default=20, help="of each server in each round")
    asked = parser.parse_args(arguments)
    on: list[Turn] = []
    off: list[Turn] = []
    with (
        bed(variables={"TASK_SERVER_MODEL": "on"}) as with_it,
        bed(variables={"TASK_SERVER_MODEL": "off"}) as without,
    ):
        for place in (with_it, without):  # one that warms up
            _turn(place, asked.batches)
        for round_ in range(asked.rounds):
            turns = [(with_it, on), (without, off)]
            for place, found in turns if round_ % 2 else reversed(turns):
                found.append(_turn(place, asked.batches))
    _show(on, off)
    return 0


def _turn(place: Bed, batches: int) -> Turn:
    connection = place.connect()
    before, began = used(place), time.monotonic()
    for _ in range(batches):
        run_batch(connection, TASKS)
    seconds = time.monotonic() - began
    tasks = TASKS * batches
    spent = used(place).since(before).of_each(tasks)
    waits = [run_call(connection, ONE) for _ in range(CALLS)]
    return Turn(spent.server, spent.estimator, seconds, tasks, waits)


def _rate(turn: Turn) -> float:
    return turn.tasks / turn.seconds


def _show(on: Sequence[Turn], off: Sequence[Turn]) -> None:
    server = median(a.server / b.server for a, b in zip(on, off, strict=True))
    rate = median(b.seconds / a.seconds for a, b in zip(on, off, strict=True))
    core = median(each.estimator * 1e-6 * each.tasks / each.seconds for each in on)
    for name, turns in (("on", on), ("off", off)):
        waits = quantiles([wait for each in turns for wait in each.waits], n=100)
        print(
            f"{name:4} server {median(each.server for each in turns):6.1f} us a task;"
            f" one by one p50 {1000 * waits[49]:.2f} ms, p99 {1000 * waits[98]:.2f} ms"
        )
    print(f"server with / without {server:.3f}, rate with / without {rate:.3f}")
    print(f"estimator {100 * core:.1f} % of a core at {median(map(_rate, on)):.0f} tasks/s")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
