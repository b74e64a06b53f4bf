"""Losing power at many moments of a recording, each time to open what is left."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from msgspec import Struct

from task_server.protocol import ids
from task_server.store.rows import TaskFilter
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
    with closing(sqlite3.connect(folder / "task-server.db")) as connection:
        checked = connection.execute("PRAGMA integrity_check").fetchall()
        faults += [text for (text,) in checked if text != "ok"]
        return faults + _missing_blobs(folder, _named_blobs(connection))


def _fault(fact: Fact, known: dict[bytes, tuple[str, bytes | None, int]], folder: Path) -> str:
    if fact.blob is not None:
        return "".join(_missing_blobs(folder, [fact.blob]))
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


def _named_blobs(connection: sqlite3.Connection) -> list[str]:
    """Blobs that tasks have as arguments or answers."""
    rows = connection.execute(
        "SELECT payload FROM tasks WHERE instr(payload, 'sha256:')"
        " UNION ALL SELECT outcome FROM tasks WHERE instr(outcome, 'sha256:')"
    ).fetchall()
    return ["sha256:" + row[0].partition(b"sha256:")[2][:64].decode() for row in rows]


def _missing_blobs(folder: Path, names: Sequence[str]) -> list[str]:
    faults = []
    for name in names:
        digest = name.removeprefix("sha256:")
        path = folder / "blobs" / digest[:2] / digest
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            faults.append(f"blob {name} is lost or spoilt")
    return faults
