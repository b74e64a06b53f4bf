"""Where the time goes: processor seconds of each process while batches run (Linux)."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import Struct

from bench.bed import Bed
from bench.scenarios import run_batch

TICK = os.sysconf("SC_CLK_TCK")


class Shares(Struct, frozen=True):
    """Processor time of one task in microseconds, by process."""

    server: float
    agent: float
    runners: float
    client: float


def shares(bed: Bed, batches: int) -> Shares:
    """Over batches of 1000 no-ops."""
    connection = bed.connect()
    before = _seconds(bed)
    for _ in range(batches):
        run_batch(connection, 1000)
    used = [after - early for after, early in zip(_seconds(bed), before, strict=True)]
    return Shares(*(1e6 * seconds / (1000 * batches) for seconds in used))


def spent_seconds(bed: Bed) -> float:
    """Processor seconds so far of server and worker, with all that they started."""
    processes = [bed.server, *_below(bed.server), bed.agent, *_below(bed.agent)]
    return sum(_of_process(each, with_ended=True) for each in processes)


def _seconds(bed: Bed) -> list[float]:
    own = os.times()
    return [
        _of_process(bed.server),
        _of_process(bed.agent),
        sum(_of_process(each) for each in _below(bed.agent)),
        own.user + own.system,
    ]


def _of_process(process: int, *, with_ended: bool = False) -> float:
    """Of one process; with that of its children that have ended if so asked."""
    fields = _stat(process)[11 : 15 if with_ended else 13]
    return sum(map(int, fields)) / TICK


def _below(process: int) -> list[int]:
    """Its children, theirs, and so on."""
    parents = {each: int(fields[1]) for each in _all() if (fields := _stat(each))}
    found = [process]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]


def _all() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def _stat(process: int) -> list[str]:
    """What follows the name in /proc/PID/stat; empty when it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
