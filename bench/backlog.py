"""A long queue beside an empty one, in turn: the ratio is due to the queue alone.

    python -m bench.backlog [--database sqlite|postgresql] [--rows 1000000] [--rounds 20]
        [--spread] [--http | --no-analyze | --old-snapshot SECONDS | --restart]

Life cycles of tasks, a thousand in a round. PostgreSQL is a cluster of its own, with its defaults.
`--http`: through servers, as users and workers see it, with the time that a worker waits for one
task. `--spread` gives each queued task a due time of its own, as estimates do; else they are due in
the order of their submit. `--no-analyze`: PostgreSQL never learns how much there is in its tables.
`--old-snapshot`: both queues are long; at one of them somebody reads all the while, so that nothing
of what ends is cleaned up. `--restart`: servers that are killed and started again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Literal

from bench.bed import Place, Server
from bench.databases import Database, databases
from bench.figures import Figure
from bench.http import Connection
from bench.http_line import HttpLine
from bench.line import Line, Rates
from bench.sizes import Size
from task_server.server.administration import create_token
from task_server.store.contract import Store
from task_server.store.opening import open_store

KINDS: tuple[Literal["user", "worker"], ...] = ("user", "worker")
PHASES = ("submit", "lease", "finish", "cycle")
ROWS = 1_000_000
ROUNDS = 20
UNANALYZED_ROWS = 200_000
SNAPSHOT_ROWS = 10_000


async def _open(database: Database) -> Store:
    return await open_store(database.url, clock=time.time, lease_seconds=60.0)


async def _fill(database: Database, rows: int) -> None:
    began = time.perf_counter()
    store = await _open(database)
    await Line(store).fill(rows)
    await store.close()
    print(f"{rows:,} tasks submitted in {time.perf_counter() - began:.1f} s")


async def _rounds(
    pair: Sequence[Database], *, until: Callable[[int], bool]
) -> tuple[list[Rates], list[Rates]]:
    """Rounds on two databases in turn, after one that does not count; `until` so many are made."""
    stores = [await _open(each) for each in pair]
    found = await _rounds_of([Line(store) for store in stores], until=until)
    for store in stores:
        await store.close()
    return found


async def _rounds_of(
    lines: Sequence[Line | HttpLine], *, until: Callable[[int], bool]
) -> tuple[list[Rates], list[Rates]]:
    found: tuple[list[Rates], list[Rates]] = ([], [])
    for line in lines:
        await line.join()
        await line.round()
    while not until(len(found[0])):
        for line, rates in zip(lines, found, strict=True):
            rates.append(await line.round())
    return found


def _tell(first: Sequence[Rates], second: Sequence[Rates], name: str, other: str) -> None:
    """Print the medians of both and their ratio."""
    print(f"{len(first)} rounds, tasks a second: {name}, {other}, ratio of the medians")
    for phase in PHASES:
        one, two = (median(getattr(each, phase) for each in rates) for rates in (first, second))
        print(f"{phase:7}{one:10,.0f}{two:10,.0f}{one / two:7.2f}x")


async def _measure(asked: argparse.Namespace, one: Database, other: Database) -> None:
    if asked.restart:
        await _measure_restart(asked, one, other)
    elif asked.old_snapshot is not None:
        await _measure_snapshot(asked, one, other)
    else:
        await _measure_queue(asked, one, other)


def queued_million(place: Place, parent: Path | None, size: Size) -> list[Figure]:
    """Whole cycles through servers, with a long queue against none, in turn."""
    return [
        Figure("1,000,000 queued, submit order", _against_empty(place, parent, False), "x"),
        Figure("1,000,000 queued, estimates spread", _against_empty(place, parent, True), "x"),
    ]


def _against_empty(place: Place, parent: Path | None, is_spread: bool) -> float:
    with databases(place.database, "one", "other", parent=parent) as pair:
        asyncio.run(_queue(*pair, rows=ROWS, is_spread=is_spread))
        _, rates = asyncio.run(_http_rounds(pair, until=lambda made: made >= ROUNDS))
    long, empty = (median(each.cycle for each in found) for found in rates)
    return long / empty


async def _queue(long: Database, empty: Database, *, rows: int, is_spread: bool) -> None:
    await _fill(long, rows)
    await _fill(empty, 0)
    if is_spread:
        long.spread()


async def _http_rounds(
    pair: Sequence[Database], *, until: Callable[[int], bool]
) -> tuple[list[HttpLine], tuple[list[Rates], list[Rates]]]:
    with ExitStack() as stack:
        lines = [stack.enter_context(_served(each)) for each in pair]
        return lines, await _rounds_of(lines, until=until)


async def _measure_queue(asked: argparse.Namespace, long: Database, empty: Database) -> None:
    await _queue(long, empty, rows=asked.rows, is_spread=asked.spread)
    names = (f"{asked.rows:,} queued", "none")
    if asked.http:
        await _measure_http(asked, (long, empty), names)
        return
    rates = await _rounds((long, empty), until=lambda made: made >= asked.rounds)
    _tell(*rates, *names)


async def _measure_http(
    asked: argparse.Namespace, pair: Sequence[Database], names: Sequence[str]
) -> None:
    lines, rates = await _http_rounds(pair, until=lambda made: made >= asked.rounds)
    _tell(*rates, *names)
    for line, name in zip(lines, names, strict=True):
        waits = sorted(line.single_leases)
        middle, most = 1e3 * median(waits), 1e3 * waits[int(0.99 * len(waits))]
        print(f"one task, leased: p50 {middle:.1f} ms, p99 {most:.1f} ms with {name}")


@contextmanager
def _served(database: Database) -> Iterator[HttpLine]:
    """A line through a server of its own on this database."""
    owner, worker = (create_token(database.url, kind=kind, name="bench") for kind in KINDS)
    with tempfile.TemporaryDirectory(prefix="task-server-bench-") as folder:
        server = Server(Path(folder), "--database", database.url)
        line = HttpLine(server.url, user=owner, worker=worker)
        yield line
        line.close()
        server.kill()


async def _measure_snapshot(asked: argparse.Namespace, held: Database, free: Database) -> None:
    for each in (held, free):
        await _fill(each, asked.rows)
    end = time.monotonic() + asked.old_snapshot
    async with held.old_snapshot():
        rates = await _rounds((held, free), until=lambda _: time.monotonic() > end)
    third = len(rates[0]) // 3
    names = ("under an old snapshot", "without")
    print("in the first third of the time:")
    _tell(rates[0][: third + 1], rates[1][: third + 1], *names)
    print(f"in the last third, after {third * 2000:,} tasks:")
    _tell(rates[0][-third - 1 :], rates[1][-third - 1 :], *names)


async def _measure_restart(asked: argparse.Namespace, long: Database, empty: Database) -> None:
    await _fill(long, asked.rows)
    await _fill(empty, asked.rounds + 1)
    if asked.spread:
        long.spread()
    seconds: tuple[list[tuple[float, float]], ...] = ([], [])
    with tempfile.TemporaryDirectory(prefix="task-server-bench-") as folder:
        for _ in range(asked.rounds + 1):
            for number, database in enumerate((long, empty)):
                seconds[number].append(_restart(Path(folder) / f"{number}", database))
    print(f"{asked.rounds} restarts after kill -9, median (longest) seconds from the start until")
    for what, name in enumerate(("ready", "first lease")):
        one, two = ([each[what] for each in found[1:]] for found in seconds)
        print(
            f"{name:12}{median(one):6.2f} ({max(one):.2f}) with {asked.rows:,} queued,"
            f" {median(two):.2f} ({max(two):.2f}) with next to none"
        )


def _restart(data: Path, database: Database) -> tuple[float, float]:
    """Seconds from the start of a server until it is ready, and has given a task out."""
    data.mkdir(exist_ok=True)
    token = create_token(database.url, kind="worker", name="bench")
    began = time.monotonic()
    server = Server(data, "--database", database.url)
    with closing(Connection(server.url, token)) as connection:
        connection.get("/readyz")
        ready = time.monotonic()
        assert b'"id"' in connection.get("/worker/request_task")
        leased = time.monotonic()
    server.kill()
    return ready - began, leased - began


def _asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench.backlog", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--rows",
        type=int,
        help=f"default {ROWS:,}; {UNANALYZED_ROWS:,} with --no-analyze,"
        f" {SNAPSHOT_ROWS:,} with --old-snapshot",
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--data", type=Path, help="where databases are made (default: /tmp)")
    only = parser.add_mutually_exclusive_group()
    parser.add_argument("--spread", action="store_true")
    only.add_argument("--http", action="store_true")
    only.add_argument("--no-analyze", action="store_true")
    only.add_argument("--old-snapshot", type=float, metavar="SECONDS")
    only.add_argument("--restart", action="store_true")
    asked = parser.parse_args(arguments)
    if asked.no_analyze and asked.database != "postgresql":
        parser.error("--no-analyze is for --database postgresql: nothing analyzes tables in SQLite")
    if asked.rows is None:
        asked.rows = _default_rows(asked)
    return asked


def _default_rows(asked: argparse.Namespace) -> int:
    if asked.no_analyze:
        return UNANALYZED_ROWS
    return SNAPSHOT_ROWS if asked.old_snapshot is not None else ROWS


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    asked = _asked(arguments)
    settings = ("autovacuum=off",) if asked.no_analyze else ()
    with databases(asked.database, "one", "other", settings=settings, parent=asked.data) as pair:
        asyncio.run(_measure(asked, *pair))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
