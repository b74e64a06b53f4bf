"""Killing a server under load, and what it left."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from statistics import median

from msgspec import Struct

from task_server.store.maintenance import check
from tests.e2e.load import Outcome
from tests.e2e.watched import WatchedPlace

KILLED = "killed"
"""The property under which a test leaves what came of its kills, for the summary: plain values,
which travel from the process that runs the test."""


class Killed(Struct):
    """What came of a round of kills."""

    store: str
    ready_seconds: list[float]
    """From each start until the server was ready."""
    outcome: Outcome


def summary(rounds: Sequence[Killed]) -> list[str]:
    """Lines that tell of all rounds, store by store."""
    return [
        _line(store, [each for each in rounds if each.store == store])
        for store in sorted({each.store for each in rounds})
    ]


def _line(store: str, rounds: Sequence[Killed]) -> str:
    seconds = [second for each in rounds for second in each.ready_seconds]
    outcomes = [each.outcome for each in rounds]
    return (
        f"{store}: {len(seconds)} kills under load,"
        f" {sum(each.acknowledged for each in outcomes):,} tasks acknowledged,"
        f" {sum(len(each.lost) for each in outcomes)} lost,"
        f" {sum(len(each.changed) for each in outcomes)} changed,"
        f" {sum(len(each.partial) + len(each.surplus) for each in outcomes)} partly or wrongly"
        f" taken, {sum(len(each.given_up) for each in outcomes)} given up; ready again after"
        f" {median(seconds):.2f} s, at most {max(seconds):.2f} s"
    )


def kill_and_restart(here: WatchedPlace, chance: random.Random) -> float:
    """Let the server work for a while, kill it, and start it again; some while they start.

    Gives the seconds from its start until it was ready.
    """
    assert here.server is not None
    time.sleep(chance.uniform(0.1, 1.2))
    here.server.kill()
    if chance.random() < 0.2:
        starting = here.begin_to_serve()
        time.sleep(chance.uniform(0.2, 0.8))
        starting.kill()
    begun = time.monotonic()
    here.serve()
    return time.monotonic() - begun


def findings(here: WatchedPlace) -> list[str]:
    """What is wrong with the database, by `task-server db check`; nothing when it is whole."""
    return [
        f"{each.what}: {each.count}, for example {each.example}"
        for each in check(here.database, here.data / "blobs")
    ]
