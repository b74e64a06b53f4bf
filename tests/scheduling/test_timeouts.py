"""How long a run may take that leaves it to the server."""

from __future__ import annotations

import pytest

from task_server.scheduling.statistics import Statistics
from task_server.scheduling.timeouts import CALLS, DEFAULT_SECONDS, FLOOR_SECONDS, auto_limit


def called(times: int, seconds: float) -> Statistics:
    """A function that took so long that many times."""
    known = Statistics(1, 1)
    for _ in range(times):
        known.count(seconds)
    return known


def test_too_few_calls_leave_the_default() -> None:
    limit = auto_limit(called(CALLS - 1, 100.0), predicted_high=0.0, failures=1)

    assert limit.seconds == DEFAULT_SECONDS and "only 9 calls" in limit.why


def test_a_run_may_take_three_times_what_99_of_100_take() -> None:
    limit = auto_limit(called(200, 100.0), predicted_high=1.0, failures=0)

    assert 300 <= limit.seconds <= 400
    assert "3 times the 1" in limit.why and "(200 measured)" in limit.why


def test_each_failed_attempt_doubles_it() -> None:
    known = called(200, 100.0)
    first, third = (auto_limit(known, predicted_high=1.0, failures=n) for n in (0, 2))

    assert third.seconds == 4 * first.seconds and "failed attempt (2)" in third.why


def test_short_functions_get_a_minute() -> None:
    limit = auto_limit(called(200, 0.01), predicted_high=0.02, failures=0)

    assert limit.seconds == FLOOR_SECONDS and "the least there is" in limit.why


@pytest.mark.parametrize("failures", [0, 10_000])
def test_a_call_that_is_predicted_to_take_longer_than_any_before_may(failures: int) -> None:
    limit = auto_limit(called(200, 1.0), predicted_high=4000.0, failures=failures)

    assert limit.seconds >= 12_000 and "this call was predicted" in limit.why
