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
    size_of,
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
_PAIRS = {count: np.triu_indices(count) for count in range(STRONGEST + 1)}


@dataclass(slots=True)
class Recent:
    """The regression that leans on recent calls."""

    columns: NDArray[np.intp]
    """Those that differ from call to call; all below is of these alone."""
    means: Floats
    deviations: Floats
    coefficients: Floats
    level: float
    strongest: NDArray[np.intp] | None
    """Columns that count more than by their multiples. None: there are none."""
    bend: Floats
    """What the product of any two of these adds."""
    weights: Floats
    """How much each column that was told counts for the distance of two calls."""
    left: Floats
    """What it leaves of each remembered call."""
    told: NDArray[np.intp] | None
    """The columns that tell calls from each other. None: all."""
    there: NDArray[np.float32]
    """Each remembered call where differences cost time: calls x those columns."""
    norms: NDArray[np.float32]
    """Its squared length."""

    def standard(self, numbers: Floats) -> Floats:
        """Columns in deviations from their means."""
        return (numbers.take(self.columns, axis=1) - self.means) / self.deviations

    def place(self, standard: Floats) -> NDArray[np.float32]:
        """Where calls are, in coordinates whose differences cost time."""
        if self.told is not None:
            standard = standard.take(self.told, axis=1)
        return (standard * self.weights).astype(np.float32)

    def note(self, row: int, standard: Floats, left: float) -> None:
        """A call has become row `row` of what is remembered."""
        there = self.place(standard)
        norms = (there**2).sum(axis=1)
        if row == len(self.left):
            self.left = np.append(self.left, left)
            self.there = np.concatenate([self.there, there])
            self.norms = np.concatenate([self.norms, norms])
        else:
            self.left[row], self.there[row], self.norms[row] = left, there[0], norms[0]

    def predict(self, standard: Floats) -> Floats:
        """Log seconds of each row."""
        found: Floats = standard @ self.coefficients
        found += self.level
        if self.strongest is not None:
            strongest = standard.take(self.strongest, axis=1)
            found += np.vecdot(strongest @ self.bend, strongest)
        return found


@dataclass(slots=True)
class Steady:
    """The regression that forgets nothing."""

    level: float
    """Of a call whose numbers are all 0."""
    coefficients: Floats
    by_code: Floats
    """What each code adds; those that are new add nothing, nor does the last, which is of none."""

    def predict(self, rows: Rows) -> Floats:
        """Log seconds of each row."""
        found: Floats = rows.numbers @ self.coefficients
        found += self.level
        found += np.add.reduce(self.by_code.take(rows.codes), axis=1)
        return found


def _ridge(matrix: Floats, target: Floats, *, weights: Floats | None, shrink: float) -> Floats:
    weighted = matrix if weights is None else matrix * weights[:, None]
    gram = weighted.T @ matrix
    gram.flat[:: len(gram) + 1] += shrink
    found = np.linalg.solve(gram, weighted.T @ target)
    return np.asarray(found, np.float64)


def fit_recent(history: History) -> Recent:
    """Fit to what is remembered."""
    size = history.size
    numbers = history.numbers[:size, : history.width].astype(np.float64)
    times = history.times[:size]
    weights = history.by_age(_BY_AGE)
    total = weights.sum()
    means = weights @ numbers / total
    numbers -= means
    deviations = np.sqrt(weights @ numbers**2 / total)
    columns = (deviations >= SAME).nonzero()[0]
    deviations = deviations[columns]
    standard = numbers.take(columns, axis=1) / deviations
    level = float(weights @ times / total)
    coefficients = _ridge(standard, times - level, weights=weights, shrink=1.0)
    left = times - level - standard @ coefficients
    scale = 1.4826 * size_of(left) + 1e-3
    weights = weights * np.minimum(1.0, 2.0 * scale / np.maximum(np.abs(left), 1e-9))
    level = float(weights @ times / weights.sum())
    coefficients = _ridge(standard, times - level, weights=weights, shrink=1.0)
    left = times - level - standard @ coefficients
    costs = np.abs(coefficients)
    told = None
    if len(columns) > COORDINATES:
        told = np.argsort(-costs, kind="stable")[:COORDINATES]
        costs = costs[told]
    found = Recent(
        columns=columns,
        means=means[columns],
        deviations=deviations,
        coefficients=coefficients,
        level=level,
        strongest=None,
        bend=np.zeros((0, 0)),
        weights=costs + 0.01,
        left=left,
        told=told,
        there=np.zeros(0, np.float32),
        norms=np.zeros(0, np.float32),
    )
    found.there = found.place(standard)
    found.norms = (found.there**2).sum(axis=1)
    if size >= ENOUGH:
        _bend(found, standard, weights)
    return found


def _bend(found: Recent, standard: Floats, weights: Floats) -> None:
    """Add squares and products of the features that count most."""
    order = np.argsort(-np.abs(found.coefficients))[:STRONGEST]
    strongest = order[np.abs(found.coefficients[order]) > 0.02]
    if not len(strongest):
        return
    first, second = _PAIRS[len(strongest)]
    bent = standard.take(strongest, axis=1)
    curves = bent.take(first, axis=1) * bent.take(second, axis=1)
    means = curves.mean(axis=0)
    curves -= means
    curve = _ridge(curves, found.left, weights=weights, shrink=3.0)
    found.strongest = strongest
    found.bend = np.zeros((len(strongest), len(strongest)))
    found.bend[first, second] = curve
    found.level -= float(means @ curve)
    found.left = found.left - curves @ curve


def fit_steady(history: History) -> Steady:
    """Fit to what is remembered."""
    size = history.size
    columns = np.fromiter(history.columns.values(), np.intp, len(history.columns))
    numbers = history.numbers[:size, columns].astype(np.float64)
    means = numbers.sum(axis=0) / size
    numbers -= means
    deviations = np.sqrt((numbers**2).sum(axis=0) / size)
    differs = deviations > SAME
    columns, deviations = columns[differs], deviations[differs]
    scaled = numbers.compress(differs, axis=1) / deviations
    chosen, ones = _values(history)
    level = float(history.times[:size].sum()) / size
    by_code = np.zeros(CODES + 1)
    coefficients = np.zeros(COLUMNS)
    matrix = np.concatenate([scaled, ones], axis=1)
    if matrix.shape[1]:
        found = _ridge(matrix, history.times[:size] - level, weights=None, shrink=1.0)
        coefficients[columns] = found[: len(columns)] / deviations
        by_code[chosen] = found[len(columns) :]
        level -= float(means[differs] @ coefficients[columns])
    return Steady(level, coefficients, by_code)


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


def distances(recent: Recent, standard: Floats) -> Floats:
    """Squared distance of each row from each remembered call, where differences cost time."""
    here = recent.place(standard)
    squares: Floats = np.add.reduce(here * here, axis=1)[:, None] + recent.norms
    here *= 2.0
    squares -= here @ recent.there.T
    return np.maximum(squares, 0.0, out=squares)


def nearest_left(recent: Recent, squares: Floats) -> Floats:
    """What the regression left of the nearest calls, as a correction of each row."""
    known = len(recent.left)
    count = min(NEAREST, known)
    if count < 3:
        return np.zeros(len(squares))
    chosen = squares.argpartition(count - 1, axis=1)[:, :count]
    places = chosen if len(chosen) == 1 else chosen + np.arange(0, squares.size, known)[:, None]
    weights = squares.take(places)
    weights += 0.05
    weights = 1.0 / weights
    found: Floats = np.vecdot(weights, recent.left.take(chosen))
    found /= np.add.reduce(weights, axis=1) + 2.0
    return found
