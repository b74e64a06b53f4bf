from __future__ import annotations

import pytest

from task_server.scheduling.remaining import remaining
from task_server.scheduling.statistics import Statistics, guess


def known(*seconds: float) -> Statistics:
    """A function whose calls took so long."""
    statistics = Statistics(1, 0)
    for each in seconds:
        statistics.count(each)
    return statistics


def test_at_its_start_the_whole_call_is_left() -> None:
    statistics = known(1.0, 2.0, 4.0)

    low, middle, high = remaining(statistics.price(), statistics, 0.0)

    assert (low, middle, high) == pytest.approx((1.0, 2.0, 4.0), rel=0.1)


def test_only_calls_that_took_longer_count() -> None:
    statistics = known(*[1.0] * 99, 10.0)

    low, middle, high = remaining(statistics.price(), statistics, 2.0)

    assert low == middle == high == pytest.approx(8.0, rel=0.2)


def test_what_outlives_all_others_takes_as_long_again() -> None:
    statistics = known(1.0, 2.0)

    assert remaining(statistics.price(), statistics, 30.0) == (3.0, 30.0, 300.0)


def test_of_an_unknown_function_little_is_known() -> None:
    low, middle, high = remaining(guess(1.0, "server"), None, 0.0)

    assert (middle, high) == (1.0, 30.0) and 0 < low < 0.1
