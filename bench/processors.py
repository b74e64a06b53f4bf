"""Where the time goes: processor seconds of each process (Linux)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from bench.bed import Bed

TICK = os.sysconf("SC_CLK_TCK")


class Shares(Struct, frozen=True):
    """Processor time by process: seconds, or microseconds a task."""

    server: float
    estimator: float
    """Learns and prices beside the server."""
    agent: float
    runners: float
    client: float
    database: float
    """PostgreSQL's; SQLite works inside the server."""

    def of_each(self, tasks: int) -> Shares:
        """Seconds as microseconds a task."""
        return self._map(lambda name: 1e6 * getattr(self, name) / tasks)

    def since(self, earlier: Shares) -> Shares:
        """What was used after another moment."""
        return self._map(lambda name: getattr(self, name) - getattr(earlier, name))

    def _map(self, value: Callable[[str], float]) -> Shares:
        return Shares(**{name: value(name) for name in self.__struct_fields__})


def used(bed: Bed) -> Shares:
    """Seconds until now."""
    own = os.times()
    return Shares(
        server=processor_seconds(bed.servers),
        estimator=processor_seconds(below(bed.servers)),
        agent=processor_seconds(bed.agents),
        runners=processor_seconds(below(bed.agents)),
        client=own.user + own.system,
        database=processor_seconds(with_children(bed.databases)),
    )


def processor_seconds(processes: Iterable[int]) -> float:
    """What these have used; one that has ended counts nothing."""
    return sum(_of_process(each) for each in processes)


def spent_seconds(bed: Bed) -> float:
    """Processor seconds so far of servers and workers, with all that they started."""
    processes = with_children([*bed.servers, *bed.agents])
    return sum(_of_process(each, with_ended=True) for each in processes)


def with_children(processes: Iterable[int]) -> list[int]:
    """Processes, their children, theirs, and so on."""
    parents = {each: int(fields[1]) for each in _all() if (fields := _stat(each))}
    found = list(processes)
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found


def below(processes: Iterable[int]) -> list[int]:
    """Their children, theirs, and so on."""
    above = list(processes)
    return with_children(above)[len(above) :]


def _of_process(process: int, *, with_ended: bool = False) -> float:
    """Of one process; with that of its children that have ended if so asked."""
    fields = _stat(process)[11 : 15 if with_ended else 13]
    return sum(map(int, fields)) / TICK


def _all() -> list[int]:
    return [int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()]


def _stat(process: int) -> list[str]:
    """What follows the name in /proc/PID/stat; empty when it has ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
