"""Effects that calls share: a sum of shrunk running means, coarse to fine.

log seconds = all + package + module + function + worker + version + category + ..., each fitted
to what the coarser ones leave. That one structure tells a new function's first call from its
kin's, a machine's speed, and an argument's weight on functions that never saw it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Key = tuple[int, str, str, str]
"""Level, and what it is of."""
Sums = tuple[float, float]
"""Log seconds: with decay, and without."""

DECAY = 0.97
"""Weight of the past at each update, in the sums that follow drift."""
CATEGORIES = 12
"""Categories of a call that have effects of their own."""
MAXIMUM_KEYS = 60_000

_SHRINK = (0.5, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 1.5, 2.0, 1.0, 2.0, 0.6, 0.5)
"""Pseudo-calls of no effect, by level."""
(
    _ALL,
    _PACKAGE,
    _MODULE,
    _FUNCTION,
    _WORKER,
    _VERSION,
    _CATEGORY,
    _ARGUMENTS,
    _FUNCTION_WORKER,
    _FUNCTION_VERSION,
    _FUNCTION_CATEGORY,
    _FUNCTION_ARGUMENTS,
    _EVERYTHING,
) = range(13)


@dataclass(slots=True, frozen=True)
class Kin:
    """What a call has in common with others."""

    function: str
    worker: str | None
    version: str
    categories: list[tuple[str, str]]
    """Name and value of each, CATEGORIES at most."""
    arguments: str
    """Their digest."""

    def keys(self) -> list[Key]:
        """Its effects, coarse to fine."""
        coarse, fine = _fixed_keys(self.function, self.worker, self.version)
        of_any, *of_function = self.of_arguments()
        return [
            *coarse,
            *[(_CATEGORY, name, value, "") for name, value in self.categories],
            of_any,
            *fine,
            *[(_FUNCTION_CATEGORY, self.function, *each) for each in self.categories],
            *of_function,
        ]

    def of_arguments(self) -> list[Key]:
        """Those of the same arguments: of any function, of this one, on this worker."""
        found = [
            (_ARGUMENTS, self.arguments, "", ""),
            (_FUNCTION_ARGUMENTS, self.function, self.arguments, ""),
        ]
        if self.worker is not None:
            found.append((_EVERYTHING, self.function, self.arguments, self.worker))
        return found


@lru_cache(maxsize=1024)
def _fixed_keys(function: str, worker: str | None, version: str) -> tuple[list[Key], list[Key]]:
    """Those that do not depend on the arguments: before the categories, and behind them."""
    coarse = [
        (_ALL, "", "", ""),
        (_PACKAGE, function.partition(".")[0], "", ""),
        (_MODULE, function.rpartition(".")[0], "", ""),
        (_FUNCTION, function, "", ""),
    ]
    fine: list[Key] = []
    if worker is not None:
        coarse.append((_WORKER, worker, "", ""))
        fine.append((_FUNCTION_WORKER, function, worker, ""))
    if version:
        coarse.append((_VERSION, version, "", ""))
        fine.append((_FUNCTION_VERSION, function, version, ""))
    return coarse, fine


class Effects:
    """Two sums for each key, one that forgets and one that does not."""

    def __init__(self) -> None:
        self._sums: dict[Key, list[float]] = {}
        """Sum and count with decay, sum and count without."""
        self._older: dict[Key, list[float]] = {}
        """Those not touched since the table was last full."""

    def sums(self, function: str, calls: Sequence[Kin]) -> list[Sums]:
        """Predicted log seconds of calls of one function."""
        fixed: dict[tuple[str | None, str], Sums] = {}
        by_category: dict[tuple[str, str], Sums] = {}
        found = []
        for call in calls:
            which = (call.worker, call.version)
            if which not in fixed:
                coarse, fine = _fixed_keys(function, *which)
                fixed[which] = self._sum((*coarse, *fine))
            recent, steady = fixed[which]
            for category in call.categories:
                if category not in by_category:
                    keys = (_CATEGORY, *category, ""), (_FUNCTION_CATEGORY, function, *category)
                    by_category[category] = self._sum(keys)
                more = by_category[category]
                recent, steady = recent + more[0], steady + more[1]
            more = self._sum(call.of_arguments())
            found.append((recent + more[0], steady + more[1]))
        return found

    def _sum(self, keys: Iterable[Key]) -> Sums:
        sums, older = self._sums, self._older
        recent = steady = 0.0
        for key in keys:
            found = sums.get(key) or older.get(key)
            if found is not None:
                shrink = _SHRINK[key[0]]
                recent += found[0] / (found[1] + shrink)
                steady += found[2] / (found[3] + shrink)
        return recent, steady

    def of_worker(self, worker: str) -> float:
        """What a call takes longer there than elsewhere: log seconds, 0 for an unknown worker."""
        key = (_WORKER, worker, "", "")
        found = self._sums.get(key) or self._older.get(key)
        return 0.0 if found is None else found[0] / (found[1] + _SHRINK[_WORKER])

    def learn(self, keys: Sequence[Key], value: float) -> None:
        """Fold in a call that took `value` log seconds."""
        recent = steady = value
        for key in keys:
            found = self._touched(key)
            found[0] = found[0] * DECAY + recent
            found[1] = found[1] * DECAY + 1.0
            found[2] += steady
            found[3] += 1.0
            shrink = _SHRINK[key[0]]
            # A level is updated before the rest goes to the next, else a call counts many times.
            recent -= found[0] / (found[1] + shrink)
            steady -= found[2] / (found[3] + shrink)

    def _touched(self, key: Key) -> list[float]:
        found = self._sums.get(key)
        if found is None:
            if len(self._sums) >= MAXIMUM_KEYS // 2:
                self._sums, self._older = {}, self._sums
            found = self._older.pop(key, None) or [0.0, 0.0, 0.0, 0.0]
            self._sums[key] = found
        return found

    def state(self) -> list[list[tuple[Key, list[float]]]]:
        """All of it, to be saved: those touched last come last."""
        return [list(self._older.items()), list(self._sums.items())]

    def restore(self, state: Sequence[Sequence[tuple[Sequence[Any], list[float]]]]) -> None:
        """Take what `state` gave."""
        older, sums = state
        self._older = {_key(*key): kept for key, kept in older}
        self._sums = {_key(*key): kept for key, kept in sums}


def _key(level: int, first: str, second: str, third: str) -> Key:
    return (level, first, second, third)
