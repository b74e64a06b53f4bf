"""The clock that decides about leases goes on evenly, and follows whoever has the say."""

import pytest

from task_server.server.clock import Clock


class Time:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_small_difference_is_not_followed_and_a_jump_is() -> None:
    wall, monotonic = Time(1000.0), Time(5.0)
    clock = Clock(wall, monotonic)

    wall.now += 3
    assert clock.follow() == 0.0 and clock() == 1000.0
    wall.now += 60
    assert clock.follow() == 63.0 and clock() == 1063.0


def test_it_agrees_with_the_database_and_no_longer_with_the_wall() -> None:
    wall, monotonic = Time(1000.0), Time(5.0)
    clock = Clock(wall, monotonic)

    clock.agree(2000.0)
    wall.now += 500
    monotonic.now += 1

    assert clock() == pytest.approx(2001.0)
    assert clock.follow() == 0.0
    assert clock() == pytest.approx(2001.0)


def test_what_the_way_to_the_database_takes_does_not_move_it() -> None:
    monotonic = Time(5.0)
    clock = Clock(Time(1000.0), monotonic)
    clock.agree(2000.0)

    clock.agree(2000.02)
    assert clock() == 2000.0
    clock.agree(2000.2)
    assert clock() == pytest.approx(2000.2)
