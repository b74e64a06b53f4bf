"""How far off estimates were."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.accuracy import RECENT, Accuracy, Call, lately, overall

TIMES = st.floats(1e-6, 1e6)


def call(seconds: float, predicted: float, high: float) -> Call:
    return (seconds, math.log(seconds), predicted, high)


def judged(*calls: Call) -> Accuracy:
    accuracy = Accuracy()
    accuracy.settle(calls)
    return accuracy


def test_without_calls_nothing_is_claimed() -> None:
    told = overall([judged()])

    assert (told.calls, told.error_factor, told.at_most_p90) == (0, None, None)


def test_an_error_is_a_factor_either_way() -> None:
    told = overall([judged(call(2.0, 1.0, 3.0), call(0.5, 1.0, 3.0))])

    assert told.error_factor == pytest.approx(2.0)
    assert told.bias_factor == pytest.approx(1.0)


def test_calls_that_take_longer_than_said_show_in_the_bias() -> None:
    told = overall([judged(call(3.0, 1.0, 3.0), call(3.0, 1.0, 2.0))])

    assert told.bias_factor == pytest.approx(3.0)
    assert told.at_most_p50 == 0.0 and told.at_most_p90 == 0.5


def test_guesses_are_counted_apart() -> None:
    accuracy = judged(call(3.0, -1.0, 30.0), call(3.0, 3.0, 4.0))

    assert (accuracy.judged, accuracy.guessed) == (1, 1)
    assert overall([accuracy]).error_factor == pytest.approx(1.0)


def test_the_last_calls_are_told_apart() -> None:
    accuracy = judged(*[call(2.0, 1.0, 1.5)] * 500)
    accuracy.settle([call(1.0, 1.0, 1.5)] * RECENT)

    assert lately([accuracy]).calls == RECENT
    assert lately([accuracy]).error_factor == pytest.approx(1.0)
    assert lately([accuracy]).at_most_p90 == 1.0
    assert overall([accuracy]).at_most_p90 == pytest.approx(RECENT / (500 + RECENT))


def test_an_estimate_of_nothing_is_not_infinitely_far_off() -> None:
    told = overall([judged(call(1.0, 0.0, 0.0))])

    assert told.error_factor is not None and math.isfinite(told.error_factor)


@given(st.lists(st.tuples(TIMES, TIMES, TIMES), max_size=300), st.integers(0, 300))
def test_the_sums_do_not_depend_on_how_calls_come_together(
    calls: list[tuple[float, float, float]], cut: int
) -> None:
    told = [call(*each) for each in calls]
    whole, pieces = judged(*told), judged(*told[:cut])
    pieces = Accuracy(pieces.to_bytes())
    pieces.settle(told[cut:])

    assert overall([pieces]).error_factor == pytest.approx(overall([whole]).error_factor)
    assert lately([pieces]) == lately([whole])
    both = overall([judged(*told[:cut]), judged(*told[cut:])])
    assert both.at_most_p90 == overall([whole]).at_most_p90
