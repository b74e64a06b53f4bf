"""A batch's own pace: what its calls really take of the slots, beside what was predicted."""

from __future__ import annotations

from typing import Any

import pytest

from task_server.protocol.tasks import Quantiles
from task_server.scheduling.progress import FASTEST, SLOWEST, Look, Pace, later

WAITING = dict.fromkeys(range(100), 1.0)
"""Of a second each."""
ETA = Quantiles(80.0, 100.0, 120.0)


def look(**fields: Any) -> Look:
    known: dict[str, Any] = {
        "at": 0.0,
        "since": 0.0,
        "ended": 10,
        "waiting": WAITING,
        "calls": 100,
        "core_seconds": 100.0,
        "slots": 2,
        "is_alone": True,
    }
    return Look(**{**known, **fields})


def after(begun: int, seconds: float, **fields: Any) -> Pace:
    """So many of the waiting calls began within that time."""
    return Pace().after(look(**fields), at=seconds, still_waiting=range(begun, 100))


def test_before_anything_was_seen_the_prediction_stands_with_a_wider_interval() -> None:
    told = Pace().corrected(ETA)

    assert told.p50 == ETA.p50
    assert told.p10 < ETA.p10 and told.p90 > ETA.p90


@pytest.mark.parametrize("seconds,factor", [(40.0, 1.0), (80.0, 2.0), (20.0, 0.5)])
def test_the_pace_is_what_slots_were_there_for_over_what_was_predicted(
    seconds: float, factor: float
) -> None:
    pace = after(80, seconds)

    assert pace.factor == pytest.approx(factor, rel=0.1)
    assert pace.corrected(ETA).p50 == pytest.approx(100.0 * factor, rel=0.1)


def test_what_few_calls_tell_is_believed_in_part_and_widens() -> None:
    few, many = after(2, 4.0), after(90, 180.0)

    assert 1.0 < few.factor < 1.9 < many.factor
    assert _width(few.corrected(ETA)) > _width(many.corrected(ETA)) > _width(ETA)


def test_calls_that_stand_for_others_count_as_these() -> None:
    whole = after(80, 80.0, calls=1000, core_seconds=1000.0)

    assert whole.calls == pytest.approx(800.0)
    assert whole.factor == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize(
    "fields",
    [{"is_alone": False}, {"ended": 0}, {"since": 50.0}],
    ids=["shared", "not begun", "same"],
)
def test_time_that_tells_nothing_of_the_batch_is_left_out(fields: dict[str, Any]) -> None:
    assert after(80, 50.0, **fields) == Pace()


def test_a_while_in_which_nothing_began_is_not_forgotten_by_the_next_look() -> None:
    first, second = look(), look(at=50.0, since=50.0, ended=11)

    assert second.following(first, still_waiting=range(100)).since == 0.0
    assert second.following(first, still_waiting=range(1, 100)) is second
    assert second.following(look(ended=0), still_waiting=range(100)) is second


@pytest.mark.parametrize("seconds,factor", [(1e-9, FASTEST), (1e9, SLOWEST)])
def test_a_pace_is_bounded(seconds: float, factor: float) -> None:
    assert after(100, seconds, calls=10**9).factor == pytest.approx(factor)


def test_what_was_seen_last_counts_most() -> None:
    pace = Pace()
    for seconds in (40.0, 40.0, 40.0, 160.0, 160.0, 160.0):
        pace = pace.after(look(), at=seconds, still_waiting=range(80, 100))

    assert pace.factor > 2.3


def test_what_is_learned_meanwhile_is_no_pace() -> None:
    """All took twice as long as predicted; now that is what is predicted."""
    pace = after(80, 80.0).rebased(WAITING, dict.fromkeys(range(80, 100), 2.0))

    assert pace.factor == pytest.approx(1.0)
    assert after(80, 80.0).rebased(WAITING, {}) == after(80, 80.0)


def test_between_two_looks_an_eta_falls_as_calls_end() -> None:
    seen = look(ended=10)

    half = later(ETA, seen, Pace(), at=25.0, ended=60, total=110)
    none = later(ETA, seen, Pace(), at=25.0, ended=10, total=110)

    assert half.p50 == pytest.approx(50.0, rel=0.01)
    assert none.p50 == pytest.approx(75.0)


def test_what_runs_is_never_nothing() -> None:
    """All that waited has begun, and the last two run."""
    assert later(ETA, look(ended=10), Pace(), at=25.0, ended=110, total=112).p50 > 0.1


def test_between_two_looks_long_calls_are_taken_to_begin_first() -> None:
    seen = look(waiting={1: 3.0, 2: 1.0, 3: 1.0, 4: 1.0}, calls=4, core_seconds=6.0, ended=1)

    assert later(ETA, seen, Pace(), at=1.5, ended=2, total=5).p50 == pytest.approx(50.0, rel=0.2)


def test_what_is_done_in_a_second_cannot_be_told_to_the_tenth() -> None:
    told = Pace(0.0, 1000.0).corrected(Quantiles(0.1, 0.2, 0.3))

    assert told.p10 == 0.0 and told.p90 > 0.6
    assert told.p50 == pytest.approx(0.2)


def _width(told: Quantiles) -> float:
    return told.p90 / told.p10
