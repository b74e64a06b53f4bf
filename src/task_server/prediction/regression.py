"""Two ridge regressions of log seconds on a function's features, and the nearest calls.

One leans on recent calls: numbers and categories encoded by what they mean for the time, weights
that fall with age, one Huber step against outliers, squares and products of the strongest
features. The other forgets nothing and has a column for each common value of a category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.history import (
    CODES,
    COLUMNS,
    Floats,
    History,
    Rows,
    falling,
    median,
)

AGE_WEIGHT = 0.995
"""Weight of a call by how many came after it."""
ROOM = 2.5
"""How far beyond the times seen a prediction may go, in log seconds."""
STRONGEST = 5
NEAREST = 7
COORDINATES = 16
"""Columns by which the nearest calls are found: those that cost most."""
ENOUGH = 12
"""Calls before squares and products are tried."""
VALUES = 80
"""Values of categories with a column of their own."""
SAME = 1e-6
"""A column that deviates by less tells nothing."""

_BY_AGE = falling(AGE_WEIGHT)
_NONE = np.zeros(0, np.intp)
_PAIRS = {count: np.triu_indices(count) for count in range(STRONGEST + 1)}


@dataclass(slots=True)
class Recent:
    """The regression that leans on recent calls."""

    means: Floats
    """Of all columns."""
    through: Floats
    """Columns x what deviations from the means make together: log seconds, the features that count
    more than by their multiples, and the coordinates in which differences cost time."""
    level: Floats
    """The same of a call of means."""
    bend: Floats
    """What the product of any two of these features adds."""
    left: Floats
    """What it leaves of each remembered call."""
    there: NDArray[np.float32]
    """Each remembered call in these coordinates."""
    norms: NDArray[np.float32]
    """Its squared length."""

    def predict(self, numbers: Floats) -> tuple[list[float], NDArray[np.float32]]:
        """Log seconds of each row of columns, and where it is."""
        width = numbers.shape[1]
        found = (numbers - self.means[:width]) @ self.through[:width]
        found += self.level
        told = found[:, 0]
        begin = 1 + len(self.bend)
        if begin > 1:
            strongest = found[:, 1:begin]
            told += np.vecdot(strongest @ self.bend, strongest)
        return told.tolist(), found[:, begin:].astype(np.float32)

    def note(self, row: int, numbers: Floats, left: float) -> None:
        """A call has become row `row` of what is remembered."""
        begin = 1 + len(self.bend)
        width = numbers.shape[1]
        through = self.through[:width, begin:]
        there = ((numbers - self.means[:width]) @ through).astype(np.float32)
        norms = _norms(there)
        if row == len(self.left):
            self.left = np.append(self.left, left)
            self.there = np.concatenate([self.there, there])
            self.norms = np.concatenate([self.norms, norms])
        else:
            self.left[row], self.there[row], self.norms[row] = left, there[0], norms[0]


@dataclass(slots=True)
class Steady:
    """The regression that forgets nothing."""

    level: float
    """Of a call whose numbers are all 0."""
    coefficients: Floats
    by_code: list[float]
    """What each code adds; those that are new add nothing, nor does the last, which is of none."""

    def predict(self, rows: Rows) -> list[float]:
        """Log seconds of each row."""
        width = rows.numbers.shape[1]
        of_numbers = (rows.numbers @ self.coefficients[:width]).tolist()
        by_code = self.by_code
        return [
            told + self.level + sum([by_code[code] for code in codes])
            for told, codes in zip(of_numbers, rows.codes, strict=True)
        ]


def _ridge(matrix: Floats, target: Floats, *, weights: Floats | None, shrink: float) -> Floats:
    weighted = matrix if weights is None else matrix * weights[:, None]
    gram = weighted.T @ matrix
    gram.ravel()[:: len(gram) + 1] += shrink
    found = np.linalg.solve(gram, weighted.T @ target)
    return np.asarray(found, np.float64)


def fit_recent(history: History) -> Recent:
    """Fit to what is remembered."""
    size = history.size
    numbers = history.numbers[:size, : history.width].astype(np.float64)
    times = history.times[:size]
    weights = history.by_age(_BY_AGE)
    total = np.add.reduce(weights)
    means = weights @ numbers / total
    numbers -= means
    deviations = np.sqrt(weights @ (numbers * numbers) / total)
    columns = (deviations >= SAME).nonzero()[0]
    deviations = deviations[columns]
    standard = numbers.take(columns, axis=1) / deviations
    level = float(weights @ times / total)
    around = times - level
    left = around - standard @ _ridge(standard, around, weights=weights, shrink=1.0)
    sizes = np.abs(left)
    scale = 1.4826 * median(sizes) + 1e-3
    weights = weights * np.minimum(1.0, 2.0 * scale / np.maximum(sizes, 1e-9))
    level = float(weights @ times / np.add.reduce(weights))
    around = times - level
    coefficients = _ridge(standard, around, weights=weights, shrink=1.0)
    left = around - standard @ coefficients
    costs = np.abs(coefficients)
    strongest = _strongest(costs) if size >= ENOUGH else _NONE
    bend = np.zeros((len(strongest), len(strongest)))
    if len(strongest):
        curves, middles, curve = _curves(standard.take(strongest, axis=1), left, weights)
        bend[_PAIRS[len(strongest)]] = curve
        level -= float(middles @ curve)
        left -= curves @ curve
    told = np.arange(len(columns))
    if len(columns) > COORDINATES:
        told = np.argsort(-costs, kind="stable")[:COORDINATES]
    there = (standard.take(told, axis=1) * (costs[told] + 0.01)).astype(np.float32)
    begin = 1 + len(strongest)
    middle = np.zeros(COLUMNS)
    middle[: len(means)] = means
    through = np.zeros((COLUMNS, begin + len(told)))
    through[columns, 0] = coefficients / deviations
    through[columns[strongest], np.arange(1, begin)] = 1.0 / deviations[strongest]
    weighted = (costs[told] + 0.01) / deviations[told]
    through[columns[told], np.arange(begin, begin + len(told))] = weighted
    levels = np.zeros(through.shape[1])
    levels[0] = level
    return Recent(middle, through, levels, bend, left, there, _norms(there))


def _norms(there: NDArray[np.float32]) -> NDArray[np.float32]:
    """Squared length of each row."""
    found: NDArray[np.float32] = np.add.reduce(there * there, axis=1)
    return found


def _strongest(costs: Floats) -> NDArray[np.intp]:
    order = np.argsort(-costs)[:STRONGEST]
    return order[costs[order] > 0.02]


def _curves(bent: Floats, left: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Squares and products of features, their means, and what each of them adds."""
    first, second = _PAIRS[bent.shape[1]]
    curves = bent.take(first, axis=1) * bent.take(second, axis=1)
    means = np.add.reduce(curves, axis=0) / len(curves)
    curves -= means
    return curves, means, _ridge(curves, left, weights=weights, shrink=3.0)


def fit_steady(history: History) -> Steady:
    """Fit to what is remembered."""
    size = history.size
    columns = np.fromiter(history.columns.values(), np.intp, len(history.columns))
    numbers = history.numbers[:size, columns].astype(np.float64)
    means = np.add.reduce(numbers, axis=0) / size
    numbers -= means
    deviations = np.sqrt(np.add.reduce(numbers * numbers, axis=0) / size)
    differs = deviations > SAME
    columns, deviations = columns[differs], deviations[differs]
    scaled = numbers.compress(differs, axis=1) / deviations
    chosen, ones = _values(history)
    times = history.times[:size]
    level = float(np.add.reduce(times)) / size
    by_code = np.zeros(CODES + 1)
    coefficients = np.zeros(COLUMNS)
    matrix = np.concatenate([scaled, ones], axis=1)
    if matrix.shape[1]:
        found = _ridge(matrix, times - level, weights=None, shrink=1.0)
        coefficients[columns] = found[: len(columns)] / deviations
        by_code[chosen] = found[len(columns) :]
        level -= float(means[differs] @ coefficients[columns])
    return Steady(level, coefficients, by_code.tolist())


def _values(history: History) -> tuple[NDArray[np.intp], Floats]:
    """The codes that are common but not everywhere, and which calls have them."""
    size = history.size
    codes = history.codes[:size, : len(history.slots)]
    counts = np.bincount(codes[codes >= 0], minlength=1)
    order = np.argsort(-counts, kind="stable")[:VALUES]
    chosen = order[(counts[order] > 0) & (counts[order] < size)]
    place = np.full(len(counts) + 1, len(chosen))
    place[chosen] = np.arange(len(chosen))
    ones = np.zeros((size, len(chosen) + 1))
    ones[np.arange(size)[:, None], place[codes]] = 1.0  # the last place is that of all others
    return chosen, ones[:, :-1]


def distances(recent: Recent, here: NDArray[np.float32]) -> Floats:
    """Squared distance of each row of coordinates from each remembered call."""
    squares: Floats = np.add.reduce(here * here, axis=1)[:, None] + recent.norms
    squares -= (here * 2.0) @ recent.there.T
    return np.maximum(squares, 0.0, out=squares)


def nearest_left(recent: Recent, squares: Floats) -> list[float]:
    """What the regression left of the nearest calls, as a correction of each row."""
    known = len(recent.left)
    count = min(NEAREST, known)
    if count < 3:
        return [0.0] * len(squares)
    chosen = squares.argpartition(count - 1, axis=1)[:, :count]
    places = chosen if len(chosen) == 1 else chosen + np.arange(0, squares.size, known)[:, None]
    near, left = squares.take(places).tolist(), recent.left.take(chosen).tolist()
    return [_weighed(*each) for each in zip(near, left, strict=True)]


def _weighed(squares: list[float], left: list[float]) -> float:
    total, trust = 0.0, 2.0
    for square, each in zip(squares, left, strict=True):
        weight = 1.0 / (square + 0.05)
        total += weight * each
        trust += weight
    return total / trust
