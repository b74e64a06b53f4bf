"""Whether a function became slower."""

import math
import random

import pytest

from task_server.scheduling.pace import ENVIRONMENTS, Pace, change, stretches

SEED = 7


def counted(pace: Pace, environment: str, seconds: float, calls: int, at: float = 0.0) -> None:
    draws = random.Random(SEED)
    for number in range(calls):
        log_seconds = math.log(seconds) + draws.gauss(0.0, 0.1)
        pace.count(log_seconds, environment=environment, at=at + number)


def test_an_environment_in_which_calls_take_longer_is_seen() -> None:
    pace = Pace()
    counted(pace, "new", 2.3, 40, at=1000.0)
    counted(pace, "old", 1.0, 60)

    old, new = stretches([pace])

    assert (old.environment, new.environment) == ("old", "new")
    assert change(old.all, new.all) == pytest.approx(2.3, rel=0.1)
    assert change(new.all, old.all) == pytest.approx(1 / 2.3, rel=0.1)


@pytest.mark.parametrize(("seconds", "calls"), [(1.05, 100), (2.0, 3)])
def test_a_small_change_and_few_calls_claim_nothing(seconds: float, calls: int) -> None:
    pace = Pace()
    counted(pace, "old", 1.0, 100)
    counted(pace, "new", seconds, calls, at=1000.0)

    old, new = stretches([pace])

    assert change(old.all, new.all) is None


def test_calls_that_vary_widely_claim_nothing_by_chance() -> None:
    pace, draws = Pace(), random.Random(SEED)
    for environment in ("old", "new"):
        for number in range(20):
            pace.count(draws.gauss(0.0, 3.0), environment=environment, at=float(number))

    old, new = stretches([pace])

    assert change(old.all, new.all) is None


def test_drift_is_the_last_calls_against_those_before() -> None:
    pace = Pace()
    counted(pace, "e", 1.0, 200)
    (steady,) = stretches([pace])
    counted(pace, "e", 3.0, 32)
    (drifting,) = stretches([pace])

    assert steady.drift() is None
    assert drifting.drift() == pytest.approx(3.0, rel=0.1)


def test_only_the_environments_used_last_are_kept() -> None:
    pace = Pace()
    for number in range(ENVIRONMENTS + 5):
        pace.count(0.0, environment=str(number), at=float(number))

    assert list(pace.eras) == [str(number) for number in range(5, ENVIRONMENTS + 5)]


def test_what_was_kept_is_restored_and_counts_on() -> None:
    pace = Pace()
    counted(pace, "e", 1.0, 50)
    restored = Pace(pace.to_bytes())
    counted(pace, "e", 2.0, 10)
    counted(restored, "e", 2.0, 10)

    assert restored.to_bytes() == pace.to_bytes()


def test_servers_count_for_themselves_and_are_added_up() -> None:
    one, two, both = Pace(), Pace(), Pace()
    counted(one, "e", 1.0, 30)
    counted(two, "e", 2.0, 20, at=-5.0)
    counted(both, "e", 1.0, 30)
    counted(both, "e", 2.0, 20, at=-5.0)

    (added,), (whole,) = stretches([one, two]), stretches([both])

    assert added.all.calls == whole.all.calls == 50
    assert added.all.mean == pytest.approx(whole.all.mean)
    assert (added.first_at, added.last_at) == (-5.0, 29.0)
