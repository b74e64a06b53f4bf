"""What many workers cost a server: thousands of simulated ones, idle and busy.

    python -m bench.scale [--workers 1000 --workers 10000] [--run-seconds 10] [--seconds 40]
        [--database sqlite|postgresql] [--servers 1]

Workers with one slot each join and are told nothing for a while; then there is work for all of
them, tasks of --run-seconds, for another while. One event loop speaks for all workers, on the same
processors. What one core would carry is extrapolated from the processor time that was measured.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.bed import Bed, Place, bed, end_in_order
from bench.fleets import Busy, Watched, fleet_of, watch, watch_busy
from bench.memory import rss_mb
from bench.simulated_workers import KEEP_SECONDS
from task_server.machine import available_cpus

SETTLE_SECONDS = 5.0
SPARE_DESCRIPTORS = 500
WIDTH = 150


class Row(Struct, frozen=True):
    """What so many workers cost."""

    workers: int
    join_seconds: float
    memory_mb: float
    """Of all servers, more than without workers."""
    idle: Watched
    busy: Busy

    def idle_percent(self) -> float:
        """Of a core, in all servers together."""
        return self.idle.percent(self.idle.used.server)

    def exchange_us(self) -> float:
        """Servers' processor time for each renewal of an idle worker."""
        return 1e6 * self.idle.used.server / max(self.idle.exchanges, 1)


async def measure(bed: Bed, workers: int, *, run_seconds: float, seconds: float) -> Row:
    """Let workers join, be, and work."""
    before = sum(map(rss_mb, bed.servers))
    started = time.perf_counter()
    async with fleet_of(bed, workers, run_seconds=run_seconds) as fleet:
        joined = time.perf_counter() - started
        await asyncio.sleep(SETTLE_SECONDS)
        memory = sum(map(rss_mb, bed.servers)) - before
        idle = await watch(bed, fleet, seconds)
        busy = await watch_busy(bed, fleet, workers, seconds)
    return Row(workers, joined, memory, idle, busy)


def table(rows: Sequence[Row]) -> Table:
    """For people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "workers",
        "joined in s",
        "MB",
        "idle: server %",
        "database %",
        "us a renewal",
        "busy: tasks/s",
        "time used",
        "server us a task",
        "estimator",
        "database",
        "a core: idle workers",
        "tasks/s",
    ):
        shown.add_column(column, justify="right")
    for row in rows:
        shown.add_row(*_cells(row))
    return shown


def _cells(row: Row) -> list[str]:
    busy, each = row.busy, row.busy.used.of_each(row.busy.tasks)
    return [
        f"{row.workers:,}",
        f"{row.join_seconds:.1f}",
        f"{row.memory_mb:.0f}",
        f"{row.idle_percent():.1f}",
        f"{row.idle.percent(row.idle.used.database):.1f}",
        f"{row.exchange_us():.0f}",
        f"{busy.tasks / busy.seconds:,.0f}",
        f"{busy.kept_busy(row.workers):.2f}",
        f"{each.server:.0f}",
        f"{each.estimator:.0f}",
        f"{each.database:.0f}",
        f"{100 * row.workers / max(row.idle_percent(), 0.01):,.0f}",
        f"{1e6 / max(each.server, 1.0):,.0f}",
    ]


def _raise_limit(workers: int, run_seconds: float) -> None:
    """Have room for the connections of all workers, here and in the servers that are started."""
    needed = int(workers * (1 + min(KEEP_SECONDS / run_seconds, 1.0))) + SPARE_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    most = needed if hard == resource.RLIM_INFINITY else max(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
    except (ValueError, OSError):  # only root may have more than the limit
        raise SystemExit(
            f"{workers:,} workers need {needed:,} open files; the limit is {hard:,}"
        ) from None


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workers", type=int, action="append", help="default: 1000 and 10000")
    parser.add_argument("--run-seconds", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=40.0, help="of each while")
    parser.add_argument("--database", choices=["sqlite", "postgresql"], default="sqlite")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--data", type=Path, help="where data directories are made (default: /tmp)")
    asked = parser.parse_args(arguments)
    if asked.database == "sqlite" and asked.servers != 1:
        parser.error("a file of SQLite belongs to one server")
    end_in_order()
    place = Place(asked.database, asked.servers)
    rows = []
    for workers in asked.workers or [1000, 10_000]:
        _raise_limit(workers, asked.run_seconds)
        with bed(place, asked.data, workers=0) as made:
            row = measure(made, workers, run_seconds=asked.run_seconds, seconds=asked.seconds)
            rows.append(asyncio.run(row))
    print(f"{place.name}, {available_cpus()} processors; tasks of {asked.run_seconds:g} s")
    Console(width=WIDTH).print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
