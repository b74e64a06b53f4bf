"""How good estimates are on real functions, live: `python -m bench.live_prediction`.

First come rounds of a few calls of each function. Before each round the server is asked what its
calls will take, then they run, and what was said is held against what they took. Then one batch of
each function with new arguments: at 10, 50 and 90 % of its progress the ETA is held against the
time that was left. Needs the package index once.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.bed import bed
from bench.live_functions import SUBJECTS, Arguments, Subject
from task_server.client import requests
from task_server.client.batch import Batch
from task_server.client.client import Client
from task_server.protocol.tasks import CallEstimate, Quantiles

SEED = 7
A_ROUND = 10
"""Calls of each function."""
MARKS = (0.1, 0.5, 0.9)
"""Of a batch's progress, at which its ETA is held against the truth."""
LOOK_SECONDS = 0.1
WARM_UP_SECONDS = 300.0


Call = tuple[Sequence[Any], Mapping[str, Any]]


class Judged(Struct, frozen=True):
    """One call, or one total: what was said and what it took."""

    low: float
    middle: float
    high: float
    seconds: float

    @property
    def off(self) -> float:
        """|log| of how far off."""
        return abs(math.log(self.middle / max(self.seconds, 1e-6)))

    @property
    def is_inside(self) -> bool:
        """Within the 80 % interval."""
        return self.low <= self.seconds <= self.high


class Score(Struct):
    """Of one function."""

    name: str
    calls: list[Judged] = []
    totals: list[Judged] = []
    etas: list[Judged] = []
    guessed: int = 0


class Figures(Struct, frozen=True):
    """One line of the report."""

    function: str
    calls: int
    error_factor: float
    inside_80: float
    at_most_p90: float
    total_error_factor: float
    total_inside_80: float
    eta_inside_80: float
    etas: int


def main(arguments: Sequence[str]) -> int:
    """Measure, show, write; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.live_prediction", description=__doc__)
    parser.add_argument("--calls", type=int, default=300, help="of each function, twice")
    parser.add_argument("--data", type=Path, help="where the data directory is made")
    parser.add_argument("--json", type=Path, help="file for the figures")
    asked = parser.parse_args(arguments)
    console = Console() if sys.stdout.isatty() else Console(width=110)
    with bed(asked.data) as place, Client(place.url, place.token) as client:
        scores = measure(client, asked.calls, console)
    told = [*map(figures, scores), figures(_together(scores))]
    console.print(table(told))
    if asked.json is not None:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(told)) + b"\n")
    return 0


def measure(client: Client, calls: int, console: Console) -> list[Score]:
    """All functions, by rounds and by batches."""
    chance = random.Random(SEED)
    scores = [Score(subject.name) for subject in SUBJECTS]
    with console.status("building environments"):
        for subject in SUBJECTS:
            _warm_up(client, subject, chance)
    for number in range(calls // A_ROUND):
        with console.status(f"round {number + 1} of {calls // A_ROUND}"):
            for subject, score in zip(SUBJECTS, scores, strict=True):
                _round(client, subject, score, chance)
    for subject, score in zip(SUBJECTS, scores, strict=True):
        with console.status(f"a batch of {score.name}"):
            batch = _mapped(client, subject, _drawn(subject, chance, calls))
            score.etas += _etas(client, batch)
    return scores


def _warm_up(client: Client, subject: Subject, chance: random.Random) -> None:
    """Have its environment: what installing takes is no run time, but would spoil the ETAs."""
    batch = _mapped(client, subject, [subject.draw(chance)])
    batch.wait(WARM_UP_SECONDS)
    _run_seconds(client, batch)


def _drawn(subject: Subject, chance: random.Random, count: int) -> list[Arguments]:
    return [subject.draw(chance) for _ in range(count)]


def _mapped(client: Client, subject: Subject, calls: Sequence[Arguments]) -> Batch:
    given: list[Call] = [(args, {}) for args in calls]
    return client.submit_all(subject.name, given, package=subject.package)


def _round(client: Client, subject: Subject, score: Score, chance: random.Random) -> None:
    calls = _drawn(subject, chance, A_ROUND)
    given: list[Call] = [(args, {}) for args in calls]
    said = client.estimate_all(subject.name, given, package=subject.package)
    batch = _mapped(client, subject, calls)
    batch.wait(WARM_UP_SECONDS)
    took = _run_seconds(client, batch)
    score.guessed += said.unknown_tasks
    if said.known:
        score.calls += list(map(_judged, said.calls, took))
        score.totals.append(_judged(said.core_seconds, sum(took)))


def _judged(said: CallEstimate | Quantiles, seconds: float) -> Judged:
    return Judged(said.p10, said.p50, said.p90, seconds)


def _run_seconds(client: Client, batch: Batch) -> list[float]:
    """Of each call, in order."""
    return [task["run_seconds"] for task in _tasks(client, batch)]


def _tasks(client: Client, batch: Batch) -> list[dict[str, Any]]:
    """In order. A call that failed is a mistake of this program."""
    request = requests.list_tasks(batch=batch.id, limit=1000)
    listed: list[dict[str, Any]] = msgspec.json.decode(client.session.send(request).body)["tasks"]
    failed = [task for task in listed if task["state"] != "succeeded"]
    if failed:
        raise RuntimeError(f"a call failed: {failed[0].get('error')}")
    return listed[::-1]  # the newest comes first


def _etas(client: Client, batch: Batch) -> list[Judged]:
    """The ETA at each mark, and what it was in truth: by the end of the last task."""
    said: list[tuple[float, Quantiles]] = []
    for view in _looks(batch):
        at = time.time()  # the server is on this machine
        if view.progress >= 1.0:
            ends = [datetime.fromisoformat(each["ended_at"]) for each in _tasks(client, batch)]
            end = max(ends).timestamp()
            return [_judged(eta, end - asked_at) for asked_at, eta in said if asked_at < end]
        if len(said) < len(MARKS) and view.progress >= MARKS[len(said)] and view.eta is not None:
            said.append((at, view.eta))
    raise AssertionError


def _looks(batch: Batch) -> Iterator[Any]:
    while True:
        yield batch.status()
        time.sleep(LOOK_SECONDS)


# ---- the report


def _together(scores: Sequence[Score]) -> Score:
    return Score(
        "all",
        [each for score in scores for each in score.calls],
        [each for score in scores for each in score.totals],
        [each for score in scores for each in score.etas],
        sum(score.guessed for score in scores),
    )


def figures(score: Score) -> Figures:
    """What a function's calls come to."""
    return Figures(
        function=score.name,
        calls=len(score.calls),
        error_factor=_factor(score.calls),
        inside_80=_share([each.is_inside for each in score.calls]),
        at_most_p90=_share([each.seconds <= each.high for each in score.calls]),
        total_error_factor=_factor(score.totals),
        total_inside_80=_share([each.is_inside for each in score.totals]),
        eta_inside_80=_share([each.is_inside for each in score.etas]),
        etas=len(score.etas),
    )


def _factor(judged: Sequence[Judged]) -> float:
    return math.exp(statistics.fmean(each.off for each in judged)) if judged else math.nan


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else math.nan


def table(told: Sequence[Figures]) -> Table:
    """For people."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in (
        "function",
        "calls",
        "error factor",
        "in 80 %",
        "<= p90",
        f"error of {A_ROUND}",
        "in 80 %",
        "ETA in 80 %",
    ):
        shown.add_column(column, justify="left" if column == "function" else "right")
    for each in told:
        shown.add_row(
            each.function,
            str(each.calls),
            f"{each.error_factor:.2f}",
            f"{each.inside_80:.2f}",
            f"{each.at_most_p90:.2f}",
            f"{each.total_error_factor:.2f}",
            f"{each.total_inside_80:.2f}",
            f"{each.eta_inside_80:.2f} of {each.etas}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
