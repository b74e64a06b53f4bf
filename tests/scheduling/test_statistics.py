"""What is known of a function, and its price."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.statistics import SHORT_SECONDS, Statistics, guess


def measured(*seconds: float) -> Statistics:
    known = Statistics(1, 1)
    for each in seconds:
        known.count(each)
    known.settle()
    return known


def test_nothing_is_known_of_a_new_function() -> None:
    known = Statistics(1, 1)

    assert not known.price().is_known
    assert not known.is_short


def test_calls_are_counted_exactly() -> None:
    known = measured(2.0, 1.0, 4.0)

    assert (known.calls, known.run_seconds, known.first_seconds) == (3, 7.0, 2.0)


def test_the_price_follows_the_calls() -> None:
    known = measured(1.0)
    before = known.price()

    for _ in range(50):
        known.count(10.0)

    assert before.p50 == pytest.approx(1.0, rel=0.2)
    assert known.price().p50 == pytest.approx(10.0, rel=0.2)
    assert known.price() is known.price(), "priced once"


def test_few_calls_make_a_wide_price() -> None:
    few, many = measured(1.0).price(), measured(*[1.0] * 1000).price()

    assert few.p90 / few.p10 > many.p90 / many.p10


@pytest.mark.parametrize("seconds,is_short", [(0.001, True), (0.1, False)])
def test_short_is_what_was_measured_as_short(seconds: float, is_short: bool) -> None:
    known = measured(*[seconds] * 5)

    assert known.is_short is is_short is (seconds < SHORT_SECONDS)


@given(st.lists(st.floats(0.0, 1e4), min_size=1, max_size=30))
def test_a_price_is_in_order(seconds: list[float]) -> None:
    price = measured(*seconds).price()

    assert 0.0 <= price.p10 <= price.p50 <= price.p90 <= price.p99
    assert price.calls == len(seconds)


@given(st.lists(st.floats(0.0, 1e4), max_size=30))
def test_what_was_kept_is_restored(seconds: list[float]) -> None:
    before, after = measured(*seconds), Statistics(1, 1)

    after.restore(
        before.calls,
        before.failures,
        before.first_seconds,
        before.run_seconds,
        before.queue_seconds,
        before.install_seconds,
        before.import_seconds,
        before.cpu_seconds,
        before.peak_bytes,
        before.histogram.to_bytes(),
        before.accuracy.to_bytes(),
        before.pace.to_bytes(),
        before.peaks.to_bytes(),
    )

    assert after.price() == before.price()
    assert after.is_short is before.is_short
    assert after.accuracy.to_bytes() == before.accuracy.to_bytes()
    assert after.pace.to_bytes() == before.pace.to_bytes()
    assert after.peaks.to_bytes() == before.peaks.to_bytes()


@pytest.mark.parametrize("seconds,model", [(None, "guess"), (3.0, "owner")])
def test_a_guess_is_wide_and_says_so(seconds: float | None, model: str) -> None:
    price = guess(seconds, model)

    assert not price.is_known
    assert price.model == model
    assert price.p50 == (seconds or 1.0)
    assert price.p10 < price.p50 / 10 and price.p90 > price.p50 * 10
