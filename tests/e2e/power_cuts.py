"""Losing power at many moments of a recording, each time to open what is left."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from task_server.protocol import ids
from task_server.store.records.checks import blob_path
from task_server.store.rows import TaskFilter
from task_server.store.sqlite.check import check
from task_server.store.sqlite.store import SqliteStore
from tests.e2e.power import Disk, moments
from tests.e2e.power_load import Fact, Recording
from tests.store.sqlite.recount import recount


class Cut(Struct):
    """What was found after a loss of power."""

    at: int
    facts: int
    faults: list[str]


def cuts_of(recording: Recording, work: Path, *, seed: int, count: int) -> Iterator[Cut]:
    """Lose power at many moments, each time to see what is left, in the folder `work`."""
    chance = random.Random(seed)
    places = choose(recording, chance, count)
    disk = Disk(recording.root)
    for place, call, is_end in moments(recording.calls):
        while places and places[0] < place:
            yield look(disk, recording, places.pop(0), work / "left", chance)
        (disk.end if is_end else disk.begin)(call)


def choose(recording: Recording, chance: random.Random, count: int) -> list[int]:
    """Moments of the load, half of them beside the rare calls: names and the database's file."""
    disk = Disk(recording.root)
    for _, call, is_end in moments(recording.calls):
        (disk.end if is_end else disk.begin)(call)
    last = max(call.begun for call in recording.calls)
    rare = [place + chance.choice([0, 1]) for place in disk.touched]
    return sorted(
        chance.choice(rare) if chance.random() < 0.5 else chance.randrange(last)
        for _ in range(count)
    )


def leave(recording: Recording, at: int, folder: Path, chance: random.Random) -> None:
    """Write what a loss of power at a moment leaves into a folder."""
    disk = Disk(recording.root)
    for place, call, is_end in moments(recording.calls):
        if place > at:
            break
        (disk.end if is_end else disk.begin)(call)
    disk.after_cut(folder, chance)


def look(disk: Disk, recording: Recording, at: int, folder: Path, chance: random.Random) -> Cut:
    disk.after_cut(folder, chance)
    facts = [fact for fact in recording.facts if fact.left <= at]
    try:
        return Cut(at, len(facts), asyncio.run(faults_after(folder, facts)))
    finally:
        shutil.rmtree(folder)


async def faults_after(folder: Path, facts: Sequence[Fact]) -> list[str]:
    """Open what is left as a server does; what is missing or wrong."""
    try:
        store = SqliteStore(folder / "task-server.db", clock=time.time)
    except Exception as error:
        return [f"it does not open: {error}"]
    try:
        rows = await store.tasks(TaskFilter(owner=None, limit=1_000_000))
        await recount(store)
    finally:
        await store.close()
    known = {row.id: (row.state.word, row.outcome, row.attempt) for row in rows}
    faults = [fault for fact in facts if (fault := _fault(fact, known, folder))]
    found = check(folder / "task-server.db", folder / "blobs")
    return [*faults, *(each.what for each in found), *_spoilt_blobs(folder)]


def _fault(fact: Fact, known: dict[bytes, tuple[str, bytes | None, int]], folder: Path) -> str:
    if fact.blob is not None:
        return "" if blob_path(folder / "blobs", fact.blob) else f"blob {fact.blob} is lost"
    assert fact.task is not None
    found = known.get(fact.task)
    if found is None:
        return f"task {ids.to_text(fact.task)} is lost"
    state, outcome, attempt = found
    if fact.state == "running":
        return "" if attempt > 0 else f"a lease of {ids.to_text(fact.task)} is lost"
    if fact.state == "queued" or (state, outcome) == (fact.state, fact.answer):
        return ""
    return f"task {ids.to_text(fact.task)} is {state}, and not {fact.state} with its answer"


def _spoilt_blobs(folder: Path) -> list[str]:
    """What has a digest for its name has to be whole."""
    return [
        f"blob {path.name} is spoilt"
        for path in (folder / "blobs").glob("??/*")
        if hashlib.sha256(path.read_bytes()).hexdigest() != path.name
    ]
