"""Memory that is kept free: quantiles of peaks, powers of two, and what running out adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.memory import (
    LEAST_RESERVED,
    REMEMBERED,
    Peaks,
    after_running_out,
    reserving,
    to_reserve,
)
from task_server.scheduling.requires import Free, Requires

MIB, GIB = 2**20, 2**30


def peaks(*sizes: int) -> Peaks:
    counted = Peaks()
    counted.add_all(sizes)
    return counted


@given(st.lists(st.integers(1, 2**42), min_size=1, max_size=200))
def test_at_least_95_of_100_calls_fit_in_the_least_power_of_two_that_is_told(
    sizes: list[int],
) -> None:
    high = peaks(*sizes).high()

    assert high & (high - 1) == 0
    if high < 2**40:
        assert sum(size <= high for size in sizes) >= 0.95 * len(sizes)
    assert high == 2 * MIB or sum(size <= high // 2 for size in sizes) < 0.95 * len(sizes)


def test_rare_peaks_do_not_decide() -> None:
    assert peaks(*[300 * MIB] * 97, *[5 * GIB] * 3).high() == 512 * MIB


def test_a_function_that_takes_less_than_before_is_believed_in_time() -> None:
    counted = peaks(*[5 * GIB] * REMEMBERED)

    for _ in range(20):
        counted.add_all([300 * MIB] * REMEMBERED)

    assert counted.high() == 512 * MIB


@pytest.mark.parametrize(
    "peak,slot,kept",
    [
        (0, 2 * GIB, 0),
        (LEAST_RESERVED, 2 * GIB, 0),
        (300 * MIB, 2 * GIB, 512 * MIB),
        (300 * MIB, 0, 512 * MIB),
        (2100 * MIB, 3 * GIB, 3 * GIB),  # two of them run beside each other, as they can
        (3500 * MIB, 3 * GIB, 4 * GIB),
        (5 * GIB, 3 * GIB, 8 * GIB),
    ],
)
def test_what_is_kept_is_a_power_of_two_or_a_slots_share(peak: int, slot: int, kept: int) -> None:
    assert to_reserve(peaks(peak), slot_bytes=slot) == kept


def test_who_states_memory_is_taken_at_their_word() -> None:
    stated = Requires(cpu=2.0, memory=GIB)

    assert reserving(stated, 4 * GIB) == stated
    assert after_running_out(stated, 3 * GIB) == stated
    assert reserving(Requires(cpu=2.0), 4 * GIB) == Requires(cpu=2.0, reserved=4 * GIB)


@pytest.mark.parametrize(
    "before,peak,after",
    [
        (0, 3 * GIB, 4 * GIB),
        (0, 4 * GIB, 8 * GIB),
        (4 * GIB, 4 * GIB - 1, 8 * GIB),
        (8 * GIB, 3 * GIB, 16 * GIB),
        (GIB, 0, 2 * GIB),
        (0, MIB, 2 * LEAST_RESERVED),
        (0, 0, 0),
    ],
)
def test_what_ran_out_gets_the_next_power_of_two(before: int, peak: int, after: int) -> None:
    found = after_running_out(Requires(reserved=before), peak)

    assert found == Requires(reserved=after)


def test_a_prediction_never_keeps_a_task_from_a_worker_that_does_nothing_else() -> None:
    free = Free(slots=2, cpu=2.0, memory=2 * GIB, gpu=0, labels={})
    huge = Requires(reserved=64 * GIB)

    assert free.could(huge) and free.has(huge, slots=2)
    assert not free.could(Requires(memory=64 * GIB))
    free.take(huge)
    assert not free.has(Requires(reserved=MIB), slots=1)


def test_a_worker_that_does_not_say_what_it_has_is_given_all() -> None:
    free = Free(slots=2, cpu=None, memory=None, gpu=0, labels={})

    free.take(Requires(reserved=4 * GIB))

    assert free.has(Requires(reserved=4 * GIB), slots=1)
