"""Run times on a logarithmic scale."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.histogram import (
    BINS,
    BINS_PER_DOUBLING,
    SMALLEST_SECONDS,
    Histogram,
    bin_of,
    seconds_at,
)

LEVELS = (0.1, 0.5, 0.9, 0.99)
WIDTH = 2 ** (1 / BINS_PER_DOUBLING)
seconds = st.floats(SMALLEST_SECONDS, 1e5)


def histogram(values: list[float]) -> Histogram:
    found = Histogram()
    found.add_all(values)
    return found


@given(seconds)
def test_a_bin_holds_its_seconds(value: float) -> None:
    index = bin_of(value)

    assert seconds_at(index) <= value * (1 + 1e-9)
    assert value <= seconds_at(index + 1) * (1 + 1e-9)


@pytest.mark.parametrize("value", [0.0, -1.0, -math.inf, math.nan])
def test_no_time_and_nonsense_are_the_first_bin(value: float) -> None:
    assert bin_of(value) == 0


@pytest.mark.parametrize("value", [1e9, 1e300, math.inf])
def test_very_long_is_the_last_bin(value: float) -> None:
    assert bin_of(value) == BINS - 1


def test_of_nothing_the_quantiles_are_zero() -> None:
    assert Histogram().quantiles(LEVELS) == [0.0] * 4


@given(st.lists(seconds, min_size=1, max_size=200))
def test_quantiles_are_those_of_the_values_but_for_a_bin(values: list[float]) -> None:
    found = histogram(values).quantiles(LEVELS)

    ordered = sorted(values)
    for level, quantile in zip(LEVELS, found, strict=True):
        exact = ordered[max(math.ceil(level * len(values)) - 1, 0)]
        assert exact / WIDTH <= quantile * (1 + 1e-9)
        assert quantile <= exact * WIDTH * (1 + 1e-9)


@given(st.lists(seconds, max_size=50))
def test_quantiles_ascend(values: list[float]) -> None:
    found = histogram(values).quantiles(LEVELS)

    assert found == sorted(found)


@given(st.lists(seconds, max_size=50))
def test_it_comes_back_from_its_bytes(values: list[float]) -> None:
    before = histogram(values)

    after = Histogram(before.to_bytes())

    assert (after.counts, after.total) == (before.counts, len(values))
