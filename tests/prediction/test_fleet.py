from __future__ import annotations

import numpy as np
import pytest

from task_server.prediction.fleet import (
    Fleet,
    drawn,
    least_slots,
    left_of_own,
    makespans,
    spread_of,
)

NOTHING = (0.0, 0.0, 0.0)


def fleet(*factors: float, running: object = (), own: int = 0, ahead: object = NOTHING) -> Fleet:
    """Slots that are so many times as slow as the average."""
    return Fleet(factors, running, own, ahead)  # type: ignore[arg-type]  # ranges


def exactly(seconds: float) -> tuple[float, float, float]:
    """What is surely so long."""
    return (seconds, seconds, seconds)


def calls(*seconds: float) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Three draws of these calls, all alike."""
    return np.array([seconds] * 3, np.float64)


def when(*args: object, **more: object) -> float:
    """The moment that all draws agree on."""
    found = makespans(*args, **more)  # type: ignore[arg-type]
    assert found.min() == pytest.approx(found.max())
    return round(float(found[0]), 6)


def test_calls_go_to_the_slot_that_is_free_first() -> None:
    assert when(calls(3, 2, 2, 2), fleet(1, 1)) == 5.0
    assert when(calls(3, 2, 2, 2), fleet(1)) == 9.0


def test_no_fleet_is_faster_than_the_longest_call() -> None:
    assert when(calls(7, 1, 1), fleet(*[1.0] * 50)) == 7.0


def test_a_fleet_can_be_looked_at_as_if_it_had_more_slots() -> None:
    busy = [exactly(4), exactly(4)]
    two = fleet(1, 1, running=busy)

    assert when(calls(5, 3, 3), two) == 10.0
    assert when(calls(5, 3, 3), two.of(4)) == 6.0
    assert when(calls(5, 3, 3), two.of(8)) == 5.0


def test_it_tells_how_many_slots_are_enough() -> None:
    def least(within: float) -> int | None:
        found = least_slots(calls(5, 3, 3), fleet(1), within=within, levels=(0.5, 0.9))
        assert found[0] == found[1]  # all draws are alike
        return found[0]

    assert least(11.0) == 1
    assert least(6.0) == 2  # a share of the work would say so from 5.5 on
    assert least(5.9) == 3
    assert least(4.9) is None


def test_nothing_needs_no_slots() -> None:
    assert least_slots(np.zeros((3, 0)), fleet(1), within=1.0, levels=(0.5,)) == [0]


def test_what_runs_needs_a_slot_of_its_own_to_be_done_soon() -> None:
    busy = fleet(1, running=[exactly(4), exactly(4)])

    assert least_slots(calls(3), busy, within=4.0, levels=(0.5,)) == [3]
    assert least_slots(calls(3), busy, within=8.0, levels=(0.5,)) == [2]


def test_a_slow_worker_takes_longer() -> None:
    assert when(calls(1, 1), fleet(1, 3)) == 3.0


def test_what_runs_keeps_its_slot() -> None:
    busy = [exactly(10)]

    assert when(calls(1, 1), fleet(1, 1, running=busy)) == 2.0
    assert when(calls(1, 1), fleet(1, running=busy)) == 12.0


def test_own_calls_that_run_have_to_end_too() -> None:
    busy = [exactly(10), exactly(4)]

    assert when(calls(1), fleet(1, 1, running=busy, own=1)) == 10.0
    assert when(calls(1), fleet(1, 1, running=busy)) == 5.0
    assert left_of_own(fleet(1, 1, running=busy, own=1), 2) == pytest.approx([10.0] * 2)


def test_short_calls_that_were_dealt_ahead_lie_one_behind_the_other() -> None:
    assert when(calls(), fleet(1, 1, running=[exactly(1)] * 6, own=6)) == 3.0


def test_work_ahead_flows_to_what_is_free_first() -> None:
    busy = [exactly(10)]

    assert when(calls(1), fleet(1, 1, ahead=exactly(8))) == 5.0
    assert when(calls(1), fleet(1, 1, running=busy, ahead=exactly(8))) == 9.0
    assert when(calls(1), fleet(1, 1, running=busy, ahead=exactly(30))) == 21.0


def test_a_sample_stands_for_many_and_its_uneven_end_comes_once() -> None:
    many = when(calls(*[1.0] * 99, 20.0), fleet(1, 1), stands_for=10.0)

    assert many == pytest.approx(69.0 + 9 * 119 / 2)


def test_three_quantiles_come_back_from_many_draws() -> None:
    deviates = np.random.default_rng(1).standard_normal(20_000)

    found = np.quantile(spread_of((1.0, 4.0, 100.0), deviates), (0.1, 0.5, 0.9))

    assert found == pytest.approx([1.0, 4.0, 100.0], rel=0.1)


def test_large_fleets_are_drawn_less_often() -> None:
    assert drawn(100, 2) == 300
    assert drawn(2000, 500) == 60
