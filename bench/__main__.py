"""`make bench`: throughput and latency beside a ProcessPoolExecutor in the same rounds.

    python -m bench [--quick] [--only NAME] [--rounds 3] [--long] [--json FILE]
        [--database sqlite|postgresql] [--servers 1|2] [--data DIR]
    python -m bench --peers celery,ray,dask,huey,saq

Ratios are to ProcessPoolExecutor(2), measured just before each scenario in each round: the best of
all rounds to the best of all rounds. Below: microseconds of processor time a task, by process, in
the best round. "must" and "goal" are ratios where there is one, else values in the figure's unit.
"""

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

from bench.bed import Bed, Place, bed, end_in_order, places
from bench.figures import Measured, Result, best_of
from bench.once import ONCE
from bench.peers import comparison
from bench.peers.catalogue import PEERS
from bench.peers.comparison import Row
from bench.processors import used
from bench.reference import PROCESSES, reference
from bench.scenarios import SCENARIOS
from bench.sizes import FULL, QUICK, Size
from bench.tables import peers_table, shares_table, table
from bench.targets import TARGETS, DatabaseKind, Target
from task_server.machine import available_cpus

WIDTH = 150


class Section(Struct, frozen=True):
    """What was measured in one place."""

    place: str
    results: list[Result]


class Report(Struct):
    """All of a run, as the JSON file has it."""

    at: str
    python: str
    processors: int
    rounds: int
    sections: list[Section] = []
    peers: list[Row] = []


class Asked(Struct):
    """The command line."""

    quick: bool
    long: bool
    rounds: int
    only: list[str]
    database: list[DatabaseKind]
    servers: list[int]
    peers: list[str]
    data: Path | None
    json: Path | None

    @property
    def size(self) -> Size:
        """How much of everything."""
        return QUICK if self.quick else FULL

    def takes(self, name: str) -> bool:
        """Whether something is to be measured."""
        if self.only:
            return name in self.only
        once = ONCE.get(name)
        if once is None:
            return True
        return self.long if once.is_long else not (self.quick and once.needs_index)


def main(arguments: Sequence[str]) -> int:
    """Measure, show, write; the exit status."""
    asked = _asked(arguments)
    end_in_order()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    console.print(
        f"{available_cpus()} processors, best of {asked.rounds} rounds, no-ops; ratios are to"
        f" ProcessPoolExecutor({PROCESSES}) in the same rounds."
    )
    report = Report(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        python=platform.python_version(),
        processors=available_cpus(),
        rounds=asked.rounds,
    )
    if asked.peers:
        _compare(asked, report, console)
    else:
        _measure_all(asked, report, console)
    return 0


def _compare(asked: Asked, report: Report, console: Console) -> None:
    report.peers = comparison.rows_of(asked.peers)
    try:
        comparison.compare(
            report.peers,
            rounds=asked.rounds,
            amounts=comparison.QUICK if asked.quick else comparison.FULL,
            parent=asked.data,
            tell=_tell,
        )
    finally:  # it takes long: who interrupts it gets what there is
        console.print(peers_table(report.peers))
        _write(asked, report)


def _measure_all(asked: Asked, report: Report, console: Console) -> None:
    with reference() as pool:
        for place in places(asked.database or ["sqlite", "postgresql"], asked.servers or [1, 2]):
            results = _measure(asked, pool, place)
            console.print(table(results, place.name))
            if any(result.shares for result in results):
                console.print(shares_table(results))
            report.sections.append(Section(place.name, results))
            _write(asked, report)


def _asked(arguments: Sequence[str]) -> Asked:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, no package index")
    parser.add_argument("--long", action="store_true", help="also what takes many minutes")
    parser.add_argument("--rounds", type=int, default=3, help="the best of these is reported")
    parser.add_argument(
        "--only", action="append", default=[], choices=[*SCENARIOS, *ONCE], help="may be repeated"
    )
    for option, kind, choices in (
        ("--database", str, ["sqlite", "postgresql"]),
        ("--servers", int, [1, 2]),
    ):
        told = "may be repeated; default: all"
        parser.add_argument(
            option, action="append", default=[], type=kind, choices=choices, help=told
        )
    parser.add_argument(
        "--peers", type=_peers, default=[], help=f"compare with these: {','.join(PEERS)}"
    )
    parser.add_argument("--data", type=Path, help="where data directories are made (default: /tmp)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return msgspec.convert(vars(parser.parse_args(arguments)), Asked)


def _peers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - PEERS.keys():
        raise argparse.ArgumentTypeError(f"no peer {sorted(unknown)}; there are {', '.join(PEERS)}")
    return names


def _measure(asked: Asked, pool: ProcessPoolExecutor, place: Place) -> list[Result]:
    rounds: list[list[Measured]] = []
    names = [name for name in SCENARIOS if asked.takes(name)]
    if names:
        with bed(place, asked.data) as made:
            for number in range(asked.rounds):
                _tell(f"{place.name}: round {number + 1} of {asked.rounds}")
                rounds.append(_round(pool, made, names, asked.size))
    for name, once in ONCE.items():
        if asked.takes(name):
            _tell(f"{place.name}: {name}")
            figures = once.measure(place, asked.data, asked.size)
            rounds.append([Measured(figure) for figure in figures])
    return best_of(rounds, _targets(place))


def _round(pool: ProcessPoolExecutor, bed: Bed, names: Sequence[str], size: Size) -> list[Measured]:
    found = []
    for name in names:
        scenario = SCENARIOS[name]
        beside = scenario.reference(pool, size)
        before = used(bed)
        done = scenario.measure(bed, size)
        shares = used(bed).since(before).of_each(done.tasks)
        found += [Measured(figure, beside, shares) for figure in done.figures]
    return found


def _tell(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def _targets(place: Place) -> dict[str, Target]:
    return TARGETS[place.database] if place.servers == 1 else {}


def _write(asked: Asked, report: Report) -> None:
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
