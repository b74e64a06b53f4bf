"""Who stands where in a lane."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.order import (
    LONGEST_SECONDS,
    InBatch,
    batch_due_at,
    patience,
    place,
    rounded_up,
)

SECONDS = st.floats(0, 1e7) | st.sampled_from([0.0, 1e-9, math.inf])
READY = 1_800_000_000.0


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.0, 0.0), (0.5, 0.5), (0.51, 1.0), (1.0, 1.0), (3.0, 4.0)]
)
def test_estimates_are_rounded_up_to_a_power_of_two(seconds: float, expected: float) -> None:
    assert rounded_up(seconds) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.02, 0.3125), (3.0, 40.0), (400.0, 3600.0), (math.inf, 3600.0)]
)
def test_work_lets_pass_what_comes_within_ten_times_its_own_time(
    seconds: float, expected: float
) -> None:
    assert patience(seconds) == expected


def test_short_work_is_due_before_long_work() -> None:
    short = place(READY, predicted=0.1, predicted_high=0.2)
    long = place(READY, predicted=-60.0, predicted_high=600.0)

    assert short == (READY + 1.25, 0.0)
    assert long == (READY + 640.0, 0.0)


@pytest.mark.parametrize(
    ("finish_in", "expected"), [(1e6, 640.0), (300.0, 200.0), (50.0, 0.0), (-10.0, 0.0)]
)
def test_what_is_wanted_sooner_is_due_while_it_can_still_be_done(
    finish_in: float, expected: float
) -> None:
    due_at, _ = place(READY, predicted=60.0, predicted_high=100.0, finish_by=READY + finish_in)

    assert due_at == READY + expected


def test_of_a_batch_the_longest_starts_first() -> None:
    batch = InBatch(READY + 30.0)
    short = place(READY, predicted=1.0, predicted_high=2.0, batch=batch)
    long = place(READY, predicted=5.0, predicted_high=9.0, batch=batch)

    assert long < short and long[0] == short[0] == READY + 30.0


def test_of_a_batch_what_nobody_knows_starts_before_the_longest() -> None:
    batch = InBatch(READY + 30.0)
    unknown = place(READY, predicted=-1.0, predicted_high=30.0, batch=batch)
    long = place(READY, predicted=5000.0, predicted_high=9000.0, batch=batch)

    assert unknown < long and unknown[0] == long[0]


def test_a_batch_in_submit_order_gives_all_its_members_one_place() -> None:
    batch = InBatch(READY + 30.0, in_order=True)
    places = {
        place(READY, predicted=s, predicted_high=9 * s, finish_by=READY + f, batch=batch)
        for s, f in ((1.0, 0.0), (7.0, 1e6))
    }

    assert places == {(READY + 30.0, 0.0)}


def test_without_prediction_tasks_start_as_they_became_ready() -> None:
    at = place(READY, predicted=9.0, predicted_high=9.0, finish_by=READY, by_prediction=False)

    assert at == (READY, 0.0)


def test_a_batch_is_due_by_its_time_on_all_the_slots() -> None:
    assert batch_due_at(READY, seconds=64.0, slots=8) == READY + 80.0
    assert batch_due_at(READY, seconds=64.0, slots=0) == READY + 640.0
    assert batch_due_at(READY, seconds=64.0, slots=8, finish_by=READY + 28.0) == READY + 20.0


def test_later_members_of_a_batch_do_not_pass_earlier_ones() -> None:
    assert batch_due_at(READY, seconds=0.1, slots=8, before=READY + 90.0) == READY + 90.0
    late = place(READY + 100, predicted=1, predicted_high=1, batch=InBatch(READY + 90.0))
    assert late[0] == READY + 100


@given(
    predicted=SECONDS,
    high=SECONDS,
    finish_in=st.none() | st.floats(-1e6, 1e6),
    due_in=st.none() | st.floats(-1e6, 1e6),
    in_order=st.booleans(),
)
def test_nobody_is_due_before_being_ready_or_long_after(
    predicted: float, high: float, finish_in: float | None, due_in: float | None, in_order: bool
) -> None:
    due_at, tie = place(
        READY,
        predicted=predicted,
        predicted_high=high,
        finish_by=None if finish_in is None else READY + finish_in,
        batch=None if due_in is None else InBatch(READY + due_in, in_order),
    )

    longest = patience(predicted) if due_in is None else max(due_in, 0.0)
    assert READY <= due_at <= READY + longest + 1e-6 and tie <= 0.0
    assert patience(predicted) <= LONGEST_SECONDS
