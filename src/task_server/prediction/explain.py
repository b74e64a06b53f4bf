"""What a function's run time depends on, as far as its remembered calls tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from task_server.prediction.history import CALLS, Floats, History, Rows
from task_server.prediction.regression import Steady, fit_steady

LEAST_CALLS = 12
"""Fewer say nothing of more than the mean."""
LEAST_FACTOR = 1.1
"""Less between the calls seen is no influence worth telling."""


@dataclass(slots=True, frozen=True)
class Influence:
    """Of one feature, with all others as they are."""

    feature: str
    """As `features.py` names it: `0` is the first argument, `n length` that of the keyword `n`."""
    factor: float
    """Between the calls of least and of most time that it makes among those seen."""
    exponent: float | None
    """Run time grows as (1 + number) to this power. None: a category."""
    least: float | None
    most: float | None
    """The range of the number, as seen."""


def influences(history: History) -> list[Influence]:
    """The strongest first."""
    if history.size < LEAST_CALLS:
        return []
    steady = fit_steady(history)
    found = [*_of_numbers(history, steady), *_of_categories(history, steady)]
    told = [each for each in found if each.factor >= LEAST_FACTOR]
    return sorted(told, key=lambda each: -each.factor)


def unexplained(history: History) -> Floats:
    """Of each remembered call, oldest first: by how much longer it took than its arguments tell.

    In log seconds; version, worker and category are seen to, too.
    """
    rows = history.last_rows(CALLS)
    seen = Rows(
        history.numbers[rows].astype(np.float64),
        history.codes[rows].tolist(),
        history.arguments[rows].tolist(),
        history.workers[rows].tolist(),
    )
    left: Floats = history.times[rows] - np.array(fit_steady(history).predict(seen))
    return left


def _of_numbers(history: History, steady: Steady) -> Iterator[Influence]:
    for name, column in history.columns.items():
        values = history.numbers[: history.size, column].astype(np.float64)
        least, most = float(values.min()), float(values.max())
        exponent = float(steady.coefficients[column])
        factor = _factor(exponent * (most - least))
        yield Influence(name, factor, exponent, _plain(least), _plain(most))


def _of_categories(history: History, steady: Steady) -> Iterator[Influence]:
    by_code = np.array(steady.by_code)
    for name, (place, _) in history.slots.items():
        codes = np.unique(history.codes[: history.size, place])
        adds = by_code[codes]  # -1, of no value, is the last entry: it adds nothing
        yield Influence(name, _factor(float(adds.max() - adds.min())), None, None, None)


def _factor(log_seconds: float) -> float:
    return float(np.exp(min(abs(log_seconds), 50.0)))


def _plain(signed_log: float) -> float:
    """The number of a signed logarithm, to three digits: rows keep no more."""
    number = float(np.sign(signed_log) * np.expm1(min(abs(signed_log), 700.0)))
    return float(f"{number:.3g}")
