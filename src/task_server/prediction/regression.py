"""Two ridge regressions of log seconds on a function's features, and the nearest calls.

One leans on recent calls: numbers and categories encoded by what they mean for the time, weights
that fall with age, one Huber step against outliers, squares and products of the strongest
features. The other forgets nothing and has a column for each common value of a category.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from task_server.prediction.history import COLUMNS, Floats, History, Rows

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
CONSTANT = 1e9
"""In place of a deviation of nothing: the column then counts for nothing."""

_PAIRS = {count: np.triu_indices(count, 1) for count in range(STRONGEST + 1)}


@dataclass(slots=True)
class Recent:
    """The regression that leans on recent calls."""

    means: Floats
    deviations: Floats
    coefficients: Floats
    level: float
    strongest: NDArray[np.intp] | None
    curve: Floats
    curve_means: Floats
    weights: Floats
    """How much each column counts for the distance of two calls."""
    left: Floats
    """What it leaves of each remembered call."""
    told: NDArray[np.intp]
    """The columns that tell calls from each other."""
    there: NDArray[np.float32]
    """Each remembered call where differences cost time: calls x those columns."""
    norms: NDArray[np.float32]
    """Its squared length."""

    def standard(self, numbers: Floats) -> Floats:
        """Columns in deviations from their means."""
        return (numbers - self.means) / self.deviations

    def place(self, standard: Floats) -> NDArray[np.float32]:
        """Where calls are, in coordinates whose differences cost time."""
        return np.ascontiguousarray(standard[:, self.told] * self.weights, np.float32)

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
        found: Floats = self.level + standard @ self.coefficients
        if self.strongest is not None:
            found += (_curves(standard[:, self.strongest]) - self.curve_means) @ self.curve
        return found


@dataclass(slots=True)
class Steady:
    """The regression that forgets nothing."""

    level: float
    means: Floats
    coefficients: Floats
    by_code: Floats
    """What each code adds; the last entry, of no code, adds nothing."""

    def predict(self, rows: Rows) -> Floats:
        """Log seconds of each row."""
        codes = np.where(rows.codes < len(self.by_code) - 1, rows.codes, -1)
        found: Floats = (
            self.level
            + (rows.numbers - self.means) @ self.coefficients
            + self.by_code[codes].sum(axis=1)
        )
        return found


def _curves(strongest: Floats) -> Floats:
    first, second = _PAIRS[strongest.shape[1]]
    return np.concatenate([strongest**2, strongest[:, first] * strongest[:, second]], axis=1)


def _ridge(matrix: Floats, target: Floats, *, weights: Floats | None, shrink: float) -> Floats:
    weighted = matrix if weights is None else matrix * weights[:, None]
    gram = weighted.T @ matrix
    gram.flat[:: len(gram) + 1] += shrink
    found = np.linalg.solve(gram, weighted.T @ target)
    return np.asarray(found, np.float64)


def fit_recent(history: History) -> Recent:
    """Fit to what is remembered."""
    size = history.size
    numbers = history.numbers[:size].astype(np.float64)
    times = history.times[:size]
    weights = np.float_power(AGE_WEIGHT, history.ages())
    total = weights.sum()
    means = weights @ numbers / total
    deviations = np.sqrt(weights @ (numbers - means) ** 2 / total)
    deviations[deviations < 1e-6] = CONSTANT
    standard = (numbers - means) / deviations
    level = float(weights @ times / total)
    coefficients = _ridge(standard, times - level, weights=weights, shrink=1.0)
    left = times - level - standard @ coefficients
    scale = 1.4826 * float(np.median(np.abs(left))) + 1e-3
    weights *= np.minimum(1.0, 2.0 * scale / np.maximum(np.abs(left), 1e-9))
    level = float(weights @ times / weights.sum())
    coefficients = _ridge(standard, times - level, weights=weights, shrink=1.0)
    left = times - level - standard @ coefficients
    told = np.flatnonzero(deviations < CONSTANT)
    if len(told) > COORDINATES:
        told = np.argsort(-np.abs(coefficients), kind="stable")[:COORDINATES]
    found = Recent(
        means,
        deviations,
        coefficients,
        level,
        None,
        np.zeros(0),
        np.zeros(0),
        np.abs(coefficients[told]) + 0.01,
        left,
        told,
        np.zeros(0, np.float32),
        np.zeros(0, np.float32),
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
    curves = _curves(standard[:, strongest])
    found.curve_means = curves.mean(axis=0)
    curves -= found.curve_means
    found.curve = _ridge(curves, found.left, weights=weights, shrink=3.0)
    found.strongest = strongest
    found.left = found.left - curves @ found.curve


def fit_steady(history: History) -> Steady:
    """Fit to what is remembered."""
    size = history.size
    is_number = np.zeros(COLUMNS, bool)
    is_number[list(history.columns.values())] = True
    numbers = history.numbers[:size].astype(np.float64)
    means = numbers.mean(axis=0)
    deviations = numbers.std(axis=0)
    columns = np.flatnonzero(is_number & (deviations > 1e-6))
    scaled = (numbers[:, columns] - means[columns]) / deviations[columns]
    chosen, ones = _values(history)
    level = float(history.times[:size].mean())
    by_code = np.zeros(len(history.values) + 1)
    coefficients = np.zeros(COLUMNS)
    matrix = np.concatenate([scaled, ones], axis=1)
    if matrix.shape[1]:
        found = _ridge(matrix, history.times[:size] - level, weights=None, shrink=1.0)
        coefficients[columns] = found[: len(columns)] / deviations[columns]
        by_code[chosen] = found[len(columns) :]
    return Steady(level, means, coefficients, by_code)


def _values(history: History) -> tuple[NDArray[np.intp], Floats]:
    """The codes that are common but not everywhere, and which calls have them."""
    size = history.size
    codes = history.codes[:size]
    counts = np.bincount(codes[codes >= 0], minlength=1)
    order = np.argsort(-counts, kind="stable")[:VALUES]
    chosen = order[(counts[order] > 0) & (counts[order] < size)]
    place = np.full(len(counts) + 1, -1)
    place[chosen] = np.arange(len(chosen))
    ones = np.zeros((size, len(chosen)))
    column = place[codes]  # -1 picks the last entry, which is -1
    row, which = np.nonzero(column >= 0)
    ones[row, column[row, which]] = 1.0
    return chosen, ones


def distances(recent: Recent, standard: Floats) -> Floats:
    """Squared distance of each row from each remembered call, where differences cost time."""
    here = recent.place(standard)
    squares = (here**2).sum(axis=1)[:, None] + recent.norms - 2.0 * here @ recent.there.T
    found: Floats = np.maximum(squares, 0.0)
    return found


def nearest_left(recent: Recent, squares: Floats) -> Floats:
    """What the regression left of the nearest calls, as a correction of each row."""
    known = len(recent.left)
    count = min(NEAREST, known)
    if count < 3:
        return np.zeros(len(squares))
    chosen = np.argpartition(squares[:, :known], count - 1, axis=1)[:, :count]
    weights = 1.0 / (np.take_along_axis(squares, chosen, axis=1) + 0.05)
    found: Floats = (weights * recent.left[chosen]).sum(axis=1) / (weights.sum(axis=1) + 2.0)
    return found
