"""`python -m bench.simulation [TRACE...]`: what predictions are worth to who waits.

Recorded calls, or made ones, go through the server's own order, lanes, shares and deal; only the
machines and the time are not real. The figures stand in docs/explanation/scheduling.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Shown

from bench.simulated_fleet import Fleet, Machine, makespan, run
from bench.simulated_prices import Model, Prices, Table, Told, Truth
from bench.simulated_traces import Job, arriving, made, recorded

SLOTS = 8
LOAD = 0.9
BATCH = 200


def main(arguments: Sequence[str]) -> int:
    """Simulate, show; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulation", description=__doc__)
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE", help="a .jsonl.gz")
    parser.add_argument("--limit", type=int, help="take so many calls of each")
    asked = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    traces = {"made here": made()[: asked.limit]}
    traces |= {path.name.split(".")[0]: recorded(path, limit=asked.limit) for path in asked.traces}
    console.print(_waiting(traces))
    console.print(_makespans(traces))
    console.print(_shares(traces))
    console.print(_placements(traces))
    return 0


# ---- who waits, and for how long


def _waiting(traces: dict[str, list[Job]]) -> Shown:
    """Calls that come by themselves."""
    table = Shown(title=f"{SLOTS} slots, random arrivals at {LOAD:.0%} load")
    for title in ("trace", "order by", "mean wait", "/ FIFO", "slowdown / FIFO", "longest / fair"):
        table.add_column(title, justify="left" if title in ("trace", "order by") else "right")
    for name, calls in traces.items():
        first: tuple[float, float] | None = None
        for order, prices in _orders():
            jobs = arriving(calls, slots=SLOTS, load=LOAD)
            run(jobs, prices, slots=SLOTS)
            wait, slowdown = _means(jobs)
            first = first or (wait, slowdown)
            table.add_row(
                name,
                order,
                f"{wait:.3g} s",
                f"{wait / first[0]:.2f}",
                f"{slowdown / first[1]:.3f}",
                f"{max(job.wait / _fair(job) for job in jobs):.1f}",
            )
    return table


def _orders() -> Iterator[tuple[str, Prices | None]]:
    yield "arrival (FIFO)", None
    yield "the truth", Truth()
    yield "the table", Table()
    yield "the model", Model()


def _means(jobs: Sequence[Job]) -> tuple[float, float]:
    """Mean wait, and mean slowdown: of how much longer it took than it ran."""
    waits = sum(job.wait for job in jobs) / len(jobs)
    return waits, sum((job.wait + job.seconds) / job.seconds for job in jobs) / len(jobs)


def _fair(job: Job) -> float:
    """Seconds until it would be done behind just the work that was there when it came."""
    return job.work_ahead / SLOTS + job.seconds


# ---- how long batches take


def _makespans(traces: dict[str, list[Job]]) -> Shown:
    """Calls that come together, the longest first."""
    table = Shown(title=f"batches of {BATCH} on {SLOTS} slots: makespan / the truth's")
    for title in ("trace", "as submitted", "the table", "the model", "told up to p90"):
        table.add_column(title, justify="left" if title == "trace" else "right")
    for name, calls in traces.items():
        truth = _in_batches(calls, Truth())
        rows = [_in_batches(calls, prices) for prices in (None, Table(), Model(), Told())]
        table.add_row(name, *(f"{seconds / truth:.3f}" for seconds in rows))
    return table


def _in_batches(calls: Sequence[Job], prices: Prices | None) -> float:
    """Seconds of all batches, one after the other; learned from as it goes."""
    seconds = 0.0
    for start in range(0, len(calls) - BATCH + 1, BATCH):
        batch = [Job(each.call, each.seconds) for each in calls[start : start + BATCH]]
        seconds += makespan(batch, prices, slots=SLOTS)
    return seconds


# ---- what two owners get


def _shares(traces: dict[str, list[Job]]) -> Shown:
    """Two owners who both have more to do than there is room for."""
    table = Shown(title="two owners, long calls and short ones, while both wait: seconds served")
    for title in ("trace", "order by", "long", "short", "short's share"):
        table.add_column(title, justify="left" if title in ("trace", "order by") else "right")
    for name, calls in traces.items():
        for order, prices in (("the truth", Truth()), ("the table", Table())):
            long, short = _served(calls, prices)
            share = short / (long + short)
            table.add_row(name, order, f"{long:.3g}", f"{short:.3g}", f"{share:.3f}")
    return table


def _served(calls: Sequence[Job], prices: Prices) -> tuple[float, float]:
    """Seconds that each owner got until one has nothing waiting any more."""
    middle = _middle([job.seconds for job in calls])
    jobs = [Job(job.call, job.seconds, owner=1 if job.seconds >= middle else 2) for job in calls]
    fleet = Fleet([Machine(name) for name in range(SLOTS)])
    left = {1: 0, 2: 0}
    served = {1: 0.0, 2: 0.0}

    def note(job: Job) -> None:
        prices.learn(job)
        left[job.owner] -= 1
        served[job.owner] += job.seconds

    fleet.on_end = note
    for job in jobs:
        left[job.owner] += 1
        prices.price([job])
        fleet.submit([job])
    fleet.deal()
    while min(left.values()) > SLOTS:
        fleet.end_one()
        fleet.deal()
    return served[1], served[2]


def _middle(seconds: Sequence[float]) -> float:
    """Calls as long as that or longer are about half of the work."""
    left = sum(seconds) / 2
    for each in sorted(seconds, reverse=True):
        left -= each
        if left <= 0:
            return each
    return 0.0


# ---- unequal workers, and environments that have to be built


def _placements(traces: dict[str, list[Job]]) -> Shown:
    """Half of the workers at half the speed; each function has an environment of its own."""
    table = Shown(title="placement off and on: half the workers slow; environments to build")
    for title in ("trace", "slow: time off", "on", "build: time off", "on", "builds off", "on"):
        table.add_column(title, justify="left" if title == "trace" else "right")
    for name, calls in traces.items():
        slow = [_placed(calls, is_on=is_on, is_slow=True)[0] for is_on in (False, True)]
        built = [_placed(calls, is_on=is_on, is_slow=False) for is_on in (False, True)]
        table.add_row(
            name,
            *(f"{wait:.3g} s" for wait in slow),
            *(f"{wait:.3g} s" for wait, _ in built),
            *(f"{builds}" for _, builds in built),
        )
    return table


def _placed(calls: Sequence[Job], *, is_on: bool, is_slow: bool) -> tuple[float, int]:
    """Mean seconds until a call is done, and how many environments were built."""
    load = 0.45 if is_slow else 0.7
    jobs = arriving(calls, slots=SLOTS, load=load)
    build_seconds = 0.0
    if not is_slow:
        build_seconds = max(3 * sum(job.seconds for job in jobs) / len(jobs), 1.0)
        for job in jobs:
            job.environment = job.call.function
    machines = [Machine(name, 0.5 if is_slow and name % 2 else 1.0) for name in range(SLOTS)]
    fleet = run(jobs, Table(), machines=machines, by_placement=is_on, build_seconds=build_seconds)
    return sum(job.ended_at - job.ready_at for job in jobs) / len(jobs), fleet.builds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
