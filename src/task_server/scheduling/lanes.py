"""Lanes: the queued tasks that no rule tells apart, and the first of them kept in memory."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from operator import attrgetter
from typing import Generic, TypeVar

from msgspec import Struct

from task_server.scheduling.requires import Requires
from task_server.scheduling.statistics import Statistics

WINDOW = 1024
"""The least keys of a lane kept in memory."""

Key = tuple[float, float, int]


class Candidate(Struct):
    """A queued task as far as dealing needs it."""

    number: int
    due_at: float
    tie: float
    crashes: int
    predicted: float
    """Seconds; negative: a guess."""
    size: int
    """Bytes that it adds to a reply."""
    statistics: Statistics

    @property
    def key(self) -> Key:
        """Its place in the order of its lane."""
        return (self.due_at, self.tie, self.number)


C = TypeVar("C", bound=Candidate)


_key = attrgetter("due_at", "tie", "number")
"""`Candidate.key`, without Python code."""


class Window(Generic[C]):
    """The least keys of one lane, in order; complete when there are no others."""

    __slots__ = ("bound", "entries", "is_complete")

    def __init__(self, *, is_complete: bool) -> None:
        self.entries: list[C] = []
        self.is_complete = is_complete
        self.bound: Key = (float("-inf"), 0.0, 0)
        """Every queued task of the lane up to this key is or was in the window."""

    def offer(self, candidate: C) -> bool:
        """Take a task that became queued; False when it lies beyond the window."""
        return not self.offer_all((candidate,))

    def offer_all(self, candidates: Iterable[C]) -> list[C]:
        """Take tasks that became queued; gives those that lie beyond the window."""
        ordered = sorted(candidates, key=_key)
        within = ordered
        if not self.is_complete:
            within = ordered[: bisect_right(ordered, self.bound, key=_key)]
        if within and (not self.entries or _key(self.entries[-1]) < _key(within[0])):
            self.entries += within
        else:
            for each in within:
                insort(self.entries, each, key=_key)
        return ordered[len(within) :]

    def trim(self, size: int = WINDOW) -> list[C]:
        """Give up what is over `size`, from the end; the lane has more then."""
        over = self.entries[size:]
        if over:
            del self.entries[size:]
            self.is_complete = False
            self.bound = self.entries[-1].key
        return over

    def refill(self, candidates: list[C], *, wanted: int) -> None:
        """Take the next ones beyond the bound; fewer than `wanted`: these are the last."""
        self.entries.extend(candidates)
        self.is_complete = len(candidates) < wanted
        if candidates:
            self.bound = candidates[-1].key

    def remove(self, key: Key) -> None:
        """Forget a task that is no longer queued; nothing happens when it is not here."""
        self.take(key)

    def take(self, key: Key) -> C | None:
        """Take a task out; None when it is not here."""
        index = bisect_left(self.entries, key, key=_key)
        if index < len(self.entries) and self.entries[index].key == key:
            return self.entries.pop(index)
        return None


class Lane(Generic[C]):
    """One lane: what decides who may take from it, and its head."""

    __slots__ = (
        "environment",
        "number",
        "owner",
        "plain",
        "priority",
        "python",
        "request",
        "requires",
        "sandbox",
        "window",
    )

    def __init__(
        self,
        number: int,
        *,
        owner: int,
        priority: int,
        python: str,
        plain: bool,
        sandbox: int,
        request: int,
        environment: str | None,
        window: Window[C],
        requires: Requires | None = None,
    ) -> None:
        self.number = number
        self.owner = owner
        self.priority = priority
        self.python = python
        self.plain = plain
        self.sandbox = sandbox
        self.request = request
        self.environment = environment
        """Digest of its lock; None while there is none."""
        self.window = window
        self.requires = requires

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        facts = (self.sandbox, self.python, self.plain, self.request)
        return (self.owner, self.priority, self.requires, *facts)

    @property
    def is_leasable(self) -> bool:
        """True once its environment is locked."""
        return self.environment is not None
