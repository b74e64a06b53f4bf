"""`python -m bench`: throughput and latency beside a ProcessPoolExecutor in the same run."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console

from bench.bed import Bed, bed
from bench.figures import Figure, Result, best_of, table
from bench.processors import Shares, shares
from bench.reference import PROCESSES, measure, reference
from bench.scenarios import FULL, QUICK, SCENARIOS, Size, fill_cache, names, new_environments
from task_server.machine import available_cpus


class Report(Struct, frozen=True):
    """All of a run, as the JSON file has it."""

    at: str
    python: str
    processors: int
    rounds: int
    results: list[Result]
    microseconds_per_task: Shares | None


def main(arguments: Sequence[str]) -> int:
    """Measure, show, write; the exit status."""
    asked = _asked(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    size = QUICK if asked.quick else FULL
    rounds = _rounds(asked, size, console)
    report = Report(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=platform.python_version(),
        processors=available_cpus(),
        rounds=asked.rounds,
        results=best_of(rounds.figures),
        microseconds_per_task=rounds.shares,
    )
    _show(report, console)
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    return 0


class _Asked(Struct):
    quick: bool
    rounds: int
    only: list[str]
    data: Path | None
    json: Path | None


class _Rounds(Struct):
    figures: list[list[Figure]]
    shares: Shares | None = None


def _asked(arguments: Sequence[str]) -> _Asked:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short rounds, no new environments")
    parser.add_argument("--rounds", type=int, default=3, help="the best of these is reported")
    parser.add_argument(
        "--only", action="append", default=[], choices=list(SCENARIOS), help="may be repeated"
    )
    parser.add_argument("--data", type=Path, help="where data directories are made (default: /tmp)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return msgspec.convert(vars(parser.parse_args(arguments)), _Asked)


def _rounds(asked: _Asked, size: Size, console: Console) -> _Rounds:
    rounds = _Rounds([])
    needs_packages = not (asked.quick or asked.only)
    if needs_packages:
        with console.status("filling uv's cache"), bed(asked.data) as first:
            fill_cache(first)
    with reference() as pool, bed(asked.data) as place:
        for number in range(asked.rounds):
            with console.status(f"round {number + 1} of {asked.rounds}"):
                rounds.figures.append(_round(pool, place, names(asked.only), size))
        if "batch-1000" in names(asked.only):
            with console.status("processor time"):
                rounds.shares = shares(place, 4 * size.batches)
        if needs_packages:
            with console.status("new environments"):
                rounds.figures.append(new_environments(place))
    return rounds


def _round(
    pool: ProcessPoolExecutor, place: Bed, chosen: Sequence[str], size: Size
) -> list[Figure]:
    figures = measure(pool, tasks=5000, calls=size.calls)
    for name in chosen:
        figures += SCENARIOS[name](place, size)
    return figures


def _show(report: Report, console: Console) -> None:
    console.print(
        f"Best of {report.rounds} rounds on {report.processors} processors, no-ops; the reference"
        f" is ProcessPoolExecutor({PROCESSES}) in the same rounds."
    )
    console.print(table(report.results))
    spent = report.microseconds_per_task
    if spent is not None:
        console.print(
            f"Processor time of a task in a batch of 1000: server {spent.server:.0f} us, agent"
            f" {spent.agent:.0f}, runners {spent.runners:.0f}, client {spent.client:.0f}"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
