"""Why a queued task waits: which workers could have it, which could not and why, and until when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, get_args

from msgspec import Struct

from task_server.scheduling.requires import NOTHING, Free, Requires

Lack = Literal[
    "plain",
    "python",
    "sandbox",
    "labels",
    "cpu",
    "memory",
    "gpu",
    "environment",
    "draining",
    "paused",
    "free_cpu",
    "free_memory",
    "free_gpu",
    "free_slot",
]
"""What a worker lacks: the first of these. What is `free_` it lacks only for now; until when it is
`paused`, nobody knows."""


class Need(Struct, frozen=True, kw_only=True):
    """What a task needs of its worker."""

    python: str
    is_plain: bool
    """A plain worker may run it."""
    sandbox: int = 0
    requires: Requires = NOTHING


class Held(Struct, frozen=True, kw_only=True):
    """A task that a worker has, and the seconds until it is done: likely between these two."""

    low: float
    high: float
    requires: Requires | None = None


class Host(Struct, kw_only=True):
    """A worker that is heard of."""

    slots: int
    pythons: Sequence[str]
    sandbox: int
    free: Free | None
    """All that it has; None for a plain worker."""
    is_broken: bool = False
    """It could not build the task's environment of late."""
    refuses: Literal["draining", "paused"] | None = None
    """Why it takes no tasks at all."""
    held: Sequence[Held] = ()


class Standing(Struct, frozen=True, kw_only=True):
    """How a task stands with all workers."""

    total: int
    lacks: dict[Lack, int]
    """How many workers lack what."""
    next_low: float | None = None
    """Seconds until the first worker has what it needs, at best; None: none ever will."""
    next_high: float | None = None

    @property
    def free(self) -> int:
        """How many workers could have it now."""
        return self.total - sum(self.lacks.values())

    @property
    def fit(self) -> int:
        """How many could have it now or later."""
        lacking = sum(count for lack, count in self.lacks.items() if not is_for_now(lack))
        return self.total - lacking


def is_for_now(lack: Lack) -> bool:
    """Whether what is lacking comes by itself."""
    return lack.startswith("free_")


def standing(need: Need, hosts: Sequence[Host]) -> Standing:
    """How a task stands with these workers."""
    lacks: Counter[Lack] = Counter()
    ends = []
    for host in hosts:
        lack = lack_of(need, host)
        if lack is not None:
            lacks[lack] += 1
        if lack is None or is_for_now(lack):
            ends.append((_wait(need, host, "low"), _wait(need, host, "high")))
    return Standing(
        total=len(hosts),
        lacks={lack: lacks[lack] for lack in get_args(Lack) if lacks[lack]},
        next_low=min((low for low, _ in ends), default=None),
        next_high=min((high for _, high in ends), default=None),
    )


def lack_of(need: Need, host: Host) -> Lack | None:
    """What a worker lacks; None when it could have the task now."""
    return _lack_ever(need, host) or _lack_now(need.requires, host, host.held)


def _lack_ever(need: Need, host: Host) -> Lack | None:
    if host.free is None:
        return None if need.is_plain else "plain"
    if need.python not in host.pythons:
        return "python"
    if need.sandbox > host.sandbox:
        return "sandbox"
    if lack := _lack_of_resources(need.requires, host.free):
        return lack
    return "environment" if host.is_broken else host.refuses


def _lack_of_resources(requires: Requires, has: Free) -> Lack | None:
    if not has.has_labels(requires):
        return "labels"
    if not has.has_cpu(requires):
        return "cpu"
    if requires.memory > has.memory:
        return "memory"
    return "gpu" if requires.gpu > has.gpu else None


def _lack_now(requires: Requires, host: Host, held: Iterable[Held]) -> Lack | None:
    """What it lacks while it has these tasks."""
    if host.free is None:
        return "free_slot" if any(True for _ in held) else None
    free = host.free.copy()
    slots = free.slots - sum(free.take(each.requires or NOTHING) for each in held)
    if slots <= 0:
        return "free_slot"
    if free.memory_for(requires) > free.memory:
        return "free_memory"
    if requires.gpu > free.gpu:
        return "free_gpu"
    return "free_cpu" if free.slots_for(requires) > slots else None


def _wait(need: Need, host: Host, edge: Literal["low", "high"]) -> float:
    """Seconds until it has what the task needs, should its tasks end at that edge."""
    held = sorted(host.held, key=lambda each: float(getattr(each, edge)))
    for done in range(len(held) + 1):
        if _lack_now(need.requires, host, held[done:]) is None:
            break
    return float(getattr(held[done - 1], edge)) if done else 0.0
