"""What slots are worth."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.protocol.tasks import Quantiles
from task_server.scheduling.capacity import Work, on_more_slots

TOTAL = Quantiles(50.0, 100.0, 200.0)
SECONDS = st.floats(0.001, 1e6)


def test_work_is_shared_by_the_slots() -> None:
    assert Work(TOTAL).eta(4) == Quantiles(12.5, 25.0, 50.0)
    assert Work(TOTAL).eta(0) is None


def test_no_number_of_slots_shortens_the_longest_call() -> None:
    assert Work(TOTAL, longest=30.0).eta(100) == Quantiles(30.0, 30.0, 30.0)


def test_a_single_call_takes_as_long_as_it_takes() -> None:
    assert Work(TOTAL, longest=100.0).eta(100) == Quantiles(50.0, 100.0, 100.0)


def test_the_slots_needed_are_the_least_that_do() -> None:
    needed = Work(TOTAL, longest=5.0).slots_for(10.0)

    assert (needed.p50, needed.p90) == (10, 20)


@pytest.mark.parametrize("seconds", [-1.0, 0.0, 4.9])
def test_what_no_number_of_slots_can_do_is_said_to_be_so(seconds: float) -> None:
    needed = Work(TOTAL, longest=5.0).slots_for(seconds)

    assert (needed.p50, needed.p90) == (None, None)


def test_nothing_to_do_needs_nobody() -> None:
    needed = Work(Quantiles(0.0, 0.0, 0.0)).slots_for(0.0)

    assert (needed.p50, needed.p90) == (0, 0)


@given(SECONDS, SECONDS, st.integers(1, 1000))
def test_slots_needed_and_eta_agree(total: float, seconds: float, slots: int) -> None:
    work = Work(Quantiles(total / 2, total, 2 * total))
    needed = work.slots_for(seconds)

    if needed.p50 is not None:
        eta, fewer = work.eta(needed.p50), work.eta(needed.p50 - 1)
        assert eta is not None and eta.p50 <= seconds * 1.000001
        assert fewer is None or fewer.p50 > seconds * 0.999999


@given(SECONDS, st.integers(1, 100), st.integers(1, 100), SECONDS)
def test_an_eta_on_more_slots_is_no_later(
    seconds: float, slots: int, more: int, longest: float
) -> None:
    eta = Quantiles(seconds / 2, seconds, seconds * 2)
    found = on_more_slots(eta, slots, slots + more, longest=longest)

    assert found.p10 <= found.p50 <= found.p90
    assert found.p10 <= eta.p10 and found.p50 <= eta.p50 and found.p90 <= eta.p90
