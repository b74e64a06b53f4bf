"""Whether a function became slower: its run times by environment, and lately against before."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

import msgspec
from msgspec import Struct

RECENT = 32
"""The last calls in an environment, which are held against those before them."""
ENVIRONMENTS = 12
"""How many are kept of a function, those used last."""
_LEAST_CALLS = 8
_LEAST_FACTOR = 1.2
_SURE = 3.0
"""Standard errors that a change has to be, to be called one."""


class Era:
    """The successes of a function in one environment: sums of log seconds."""

    __slots__ = ("calls", "first_at", "last_at", "recent", "squares", "total")

    def __init__(self, first_at: float) -> None:
        self.calls = 0
        self.total = 0.0
        self.squares = 0.0
        self.first_at = first_at
        self.last_at = first_at
        self.recent = array("f", bytes(4 * RECENT))

    def count(self, log_seconds: float, at: float) -> None:
        """Count a call."""
        self.recent[self.calls % RECENT] = log_seconds
        self.calls += 1
        self.total += log_seconds
        self.squares += log_seconds * log_seconds
        self.last_at = at

    def all(self) -> Spread:
        """Of all calls."""
        return Spread(self.calls, self.total, self.squares)

    def lately(self) -> Spread:
        """Of the last calls."""
        last = self.recent[: min(self.calls, RECENT)]
        return Spread(len(last), sum(last), sum(each * each for each in last))


class Spread(Struct, frozen=True):
    """Count, sum and sum of squares."""

    calls: int
    total: float
    squares: float

    def plus(self, other: Spread) -> Spread:
        """Of both."""
        return Spread(
            self.calls + other.calls, self.total + other.total, self.squares + other.squares
        )

    def minus(self, part: Spread) -> Spread:
        """Of the rest."""
        return Spread(self.calls - part.calls, self.total - part.total, self.squares - part.squares)

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Of these."""
        return Spread(len(values), sum(values), sum(each * each for each in values))

    @property
    def mean(self) -> float:
        """Of log seconds."""
        return self.total / max(self.calls, 1)

    @property
    def typical(self) -> float:
        """Geometric mean of the seconds."""
        return math.exp(self.mean)

    @property
    def square_error(self) -> float:
        """Of the mean."""
        calls = max(self.calls, 1)
        return max(self.squares / calls - self.mean**2, 0.0) / calls


class Pace:
    """All that is kept of a function's run times in this respect."""

    __slots__ = ("eras",)

    def __init__(self, data: bytes = b"") -> None:
        self.eras: dict[str, Era] = {}
        """Digest of the environment -> its calls."""
        for environment, calls, total, squares, first_at, last_at, recent in (
            msgspec.msgpack.decode(data) if data else ()
        ):
            era = self.eras[environment] = Era(first_at)
            era.calls, era.total, era.squares, era.last_at = calls, total, squares, last_at
            era.recent = array("f", recent)

    def count(self, log_seconds: float, *, environment: str, at: float) -> None:
        """Count a success."""
        era = self.eras.get(environment)
        if era is None:
            if len(self.eras) == ENVIRONMENTS:
                del self.eras[min(self.eras, key=lambda each: self.eras[each].last_at)]
            era = self.eras[environment] = Era(at)
        era.count(log_seconds, at)

    def to_bytes(self) -> bytes:
        """What `Pace(data)` takes."""
        return msgspec.msgpack.encode(
            [
                (
                    environment,
                    era.calls,
                    era.total,
                    era.squares,
                    era.first_at,
                    era.last_at,
                    era.recent.tobytes(),
                )
                for environment, era in self.eras.items()
            ]
        )


class Stretch(Struct, frozen=True):
    """A function's calls in one environment, counted by all servers."""

    environment: str
    first_at: float
    last_at: float
    all: Spread
    lately: Spread

    def drift(self) -> float | None:
        """How much longer calls take lately than before; None while that is not sure."""
        return change(self.all.minus(self.lately), self.lately)


def stretches(parts: Sequence[Pace]) -> list[Stretch]:
    """Environments in the order in which they were first used."""
    found: dict[str, Stretch] = {}
    for part in parts:
        for environment, era in list(part.eras.items()):  # a store may be counting on
            own = Stretch(environment, era.first_at, era.last_at, era.all(), era.lately())
            other = found.get(environment)
            found[environment] = own if other is None else _joined(own, other)
    return sorted(found.values(), key=lambda each: each.first_at)


def _joined(one: Stretch, other: Stretch) -> Stretch:
    return Stretch(
        one.environment,
        min(one.first_at, other.first_at),
        max(one.last_at, other.last_at),
        one.all.plus(other.all),
        one.lately.plus(other.lately),
    )


def drift_of(log_seconds: Sequence[float]) -> float | None:
    """How much longer the last of these calls took than those before; None while not sure."""
    return change(Spread.of(log_seconds[:-RECENT]), Spread.of(log_seconds[-RECENT:]))


def change(before: Spread, after: Spread) -> float | None:
    """By which factor calls became longer (below 1: shorter); None when it may be chance."""
    if before.calls < _LEAST_CALLS or after.calls < _LEAST_CALLS:
        return None
    difference = after.mean - before.mean
    error = math.sqrt(before.square_error + after.square_error)
    if abs(difference) < max(math.log(_LEAST_FACTOR), _SURE * error):
        return None
    return math.exp(difference)
