"""What is remembered of a function: its last calls as rows of numbers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.features import Features

Floats = NDArray[np.float64]

CALLS = 400
"""Calls remembered."""
COLUMNS = 40
"""Numbers and encoded categories of a call; what comes later is not looked at."""
CATEGORIES = 12
CODES = 300
"""Distinct values of all categories; later ones count as unknown."""
WORKERS = 200
"""Workers that are told apart."""
ENCODING_DECAY = 0.98
ENOUGH_TO_JUDGE = 10
LEAST_SPREAD = 0.2
"""Log seconds by which calls have to differ for it to matter which is which."""
TOLD_APART = 0.85
ENOUGH_TO_BE_ALIKE = 5
"""Calls that all had the same arguments, before that is more than chance."""
RECENT = 50
"""Calls by whose errors a function's predictions are judged."""


def falling(weight: float) -> Floats:
    """Weights by age for `History.by_age`: each call counts `weight` times as much as the next."""
    return np.float_power(weight, -np.arange(2 * CALLS) % CALLS)


@dataclass(slots=True)
class Rows:
    """Calls of one function as arrays."""

    numbers: Floats
    """Calls x columns in use: numbers, and categories as what they mean for the time."""
    codes: list[list[int]]
    """Calls x CATEGORIES; -1 where a category is absent or not known."""
    arguments: list[int]
    """Digest of the arguments of each."""
    workers: list[int]
    """Number of the worker; -1: not known."""


class History:
    """The last CALLS calls of one function, oldest overwritten; times are log seconds."""

    def __init__(self) -> None:
        self.calls = 0
        self.columns: dict[str, int] = {}
        self.slots: dict[str, tuple[int, int]] = {}
        """Category -> its place among the codes, its column."""
        self.values: dict[int, int] = {}
        """Digest of a place and a value -> code."""
        self.encoding = np.zeros((CODES, 2), np.float32)
        """Sum and count of what each code adds to the mean."""
        self.numbers = np.zeros((8, COLUMNS), np.float16)
        self.codes = np.full((8, CATEGORIES), -1, np.int16)
        self.times = np.zeros(8)
        self.errors = np.zeros(8)
        self.arguments = np.zeros(8, np.int64)
        self.workers = np.full(8, -1, np.int16)
        self.worker_numbers: dict[str, int] = {}
        self.mean = 0.0
        self.average = 0.0
        """Exponentially weighted."""
        self.median = 0.0
        self.error_size = 0.0
        """What its predictions are missed by, usually."""
        self.last: tuple[float, ...] = ()
        self.least = np.inf
        self.most = -np.inf

    @property
    def size(self) -> int:
        """Rows in use."""
        return min(self.calls, CALLS)

    @property
    def width(self) -> int:
        """Columns in use."""
        return len(self.columns) + len(self.slots)

    def by_age(self, weights: Floats) -> Floats:
        """The weight of each row, of those that `falling` made: a view, nothing is copied."""
        begin = CALLS - (self.calls - 1) % CALLS  # the newest row's, which has the first weight
        return weights[begin : begin + self.size]

    def last_rows(self, count: int) -> NDArray[np.intp]:
        """The rows of the last calls, the newest last."""
        return np.arange(max(self.calls - min(count, CALLS), 0), self.calls) % CALLS

    def error_factor(self) -> float | None:
        """exp of the mean size of the last errors; None: there was no prediction yet."""
        recent = self.errors[self._judged()]
        return float(np.exp(np.abs(recent).mean())) if len(recent) else None

    def is_varied(self) -> bool:
        """Whether predictions tell its calls apart: they miss by less than the median would."""
        if self.calls < ENOUGH_TO_JUDGE:
            return False
        recent = self._judged()
        spread = float(np.abs(self.times[recent] - self.median).mean())
        missed = float(np.abs(self.errors[recent]).mean())
        return spread > LEAST_SPREAD and missed < TOLD_APART * spread

    def only_arguments(self) -> int | None:
        """The digest of the arguments that all of its calls had, where they were several."""
        if self.calls < ENOUGH_TO_BE_ALIKE:
            return None
        seen = self.arguments[: self.size]
        first, last = int(seen[0]), int(seen[-1])
        return first if first == last and bool((seen == first).all()) else None

    def _judged(self) -> NDArray[np.intp]:
        """The rows of the last calls but the first of all: that one was a guess."""
        return self.last_rows(min(RECENT, self.calls - 1))

    # ---- looking up

    def rows(self, calls: Sequence[tuple[Features, Sequence[tuple[str, str]], str | None]]) -> Rows:
        """Calls by features, categories (worker, versions too) and worker, as it knows them."""
        numbers, codes = [], []
        width, columns = self.width, self.columns
        known: dict[tuple[str, str], tuple[int, int, int, float] | None] = {}
        for features, categories, _ in calls:
            row = [0.0] * width
            for name, number in features.numbers.items():
                if name in columns:
                    row[columns[name]] = number
            coded = [-1] * CATEGORIES
            for category in categories:
                if category not in known:
                    known[category] = self._encoded(*category)
                found = known[category]
                if found is not None:
                    place, coded[place], column, row[column] = found
            codes.append(coded)
            numbers.append(row)
        return Rows(
            np.array(numbers),
            codes,
            [features.digest for features, _, _ in calls],
            [self.worker_numbers.get(worker, -1) if worker else -1 for _, _, worker in calls],
        )

    def _encoded(self, name: str, value: str) -> tuple[int, int, int, float] | None:
        """Place among the codes, code, column and what it means there."""
        slot = self.slots.get(name)
        code = None if slot is None else self.values.get(_digest(slot[0], value))
        if slot is None or code is None:
            return None
        total, count = self.encoding[code].tolist()
        return slot[0], code, slot[1], total / (count + 1.0)

    def same(self, rows: Rows) -> dict[int, NDArray[np.intp]]:
        """Of arguments of `rows` that were seen before: the calls that had them, newest first."""
        seen = self.arguments[: self.size]
        wanted = set(rows.arguments)
        if len(wanted) > 1:
            wanted.intersection_update(seen.tolist())
        found = {}
        for digest in wanted:
            same = (seen == digest).nonzero()[0]
            if len(same):
                found[digest] = self._newest_first(same)
        return found

    def _newest_first(self, rows: NDArray[np.intp]) -> NDArray[np.intp]:
        """Rows in ascending order, by when they were made."""
        newest = (self.calls - 1) % CALLS
        if rows[-1] <= newest:
            return rows[::-1]
        older = int(rows.searchsorted(newest, side="right"))
        return np.concatenate([rows[:older][::-1], rows[older:][::-1]])

    def times_on(self, same: NDArray[np.intp], worker: int) -> list[float]:
        """Of those of these rows that ran on that worker; of all if there are none."""
        times: list[float] = self.times.take(same).tolist()
        if worker < 0:
            return times
        workers = self.workers.take(same).tolist()
        found = [time for time, each in zip(times, workers, strict=True) if each == worker]
        return found or times

    # ---- learning

    def grow(
        self, features: Features, categories: Sequence[tuple[str, str]], worker: str | None
    ) -> None:
        """Make room for names and values that are new."""
        if worker is not None and len(self.worker_numbers) < WORKERS:
            self.worker_numbers.setdefault(worker, len(self.worker_numbers))
        for name in features.numbers:
            if name not in self.columns and self.width < COLUMNS:
                self.columns[name] = self.width
        for name, value in categories:
            slot = self.slots.get(name)
            if slot is None:
                if len(self.slots) >= CATEGORIES or self.width >= COLUMNS:
                    continue
                slot = self.slots[name] = (len(self.slots), self.width)
            if len(self.values) < CODES:
                self.values.setdefault(_digest(slot[0], value), len(self.values))

    def add(self, rows: Rows, time: float, *, error: float) -> int:
        """Remember a call, the only one of `rows`, whose prediction missed by `error`: its row."""
        row = self.calls % CALLS
        if row >= len(self.times):
            self._widen()
        self.numbers[row, : self.width] = rows.numbers[0]
        self.codes[row] = rows.codes[0]
        self.times[row], self.errors[row] = time, error
        self._add_encoding(rows.codes[0], time)
        self.arguments[row], self.workers[row] = rows.arguments[0], rows.workers[0]
        self._add_levels(time)
        return row

    def _widen(self) -> None:
        rows = min(len(self.times) * 2, CALLS)
        for name in ("numbers", "codes", "times", "errors", "arguments", "workers"):
            old = getattr(self, name)
            new = np.zeros((rows, *old.shape[1:]), old.dtype)
            new[: len(old)] = old
            setattr(self, name, new)

    def _add_encoding(self, codes: list[int], time: float) -> None:
        mean = self.mean if self.calls else time
        for code in codes:
            if code >= 0:
                total, count = self.encoding[code].tolist()
                self.encoding[code] = (
                    total * ENCODING_DECAY + time - mean,
                    count * ENCODING_DECAY + 1.0,
                )

    def _add_levels(self, time: float) -> None:
        calls = self.calls
        self.mean += (time - self.mean) / min(calls + 1, 50)
        self.average = 0.7 * self.average + 0.3 * time if calls else time
        self.last = (*self.last[-1:], time)
        self.least, self.most = min(self.least, time), max(self.most, time)
        self.calls = calls + 1
        if calls < 30 or calls % 5 == 0:
            self.median = median(self.times[: self.size])
            self.error_size = size_of(self.errors[: self.size])


def _digest(place: int, value: str) -> int:
    return zlib.crc32(value.encode(errors="replace"), place)


def median(values: Floats) -> float:
    """The median, in a tenth of numpy's time for so few."""
    middle = len(values) // 2
    if len(values) % 2:
        return float(np.partition(values, middle)[middle])
    ordered = np.partition(values, (middle - 1, middle))
    return float(ordered[middle - 1] + ordered[middle]) / 2


def size_of(errors: Floats) -> float:
    """How large errors are: the median without signs."""
    return median(np.abs(errors))
