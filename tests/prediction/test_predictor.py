"""What is learned from calls: sizes, repeats, workers, versions, drift, and how sure one may be."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest

from task_server.prediction.intervals import LEVELS
from task_server.prediction.predictor import FUNCTIONS, Call, Predictor

SEED = 7
NOISE = 0.1


def call(size: int, *, function: str = "package.module.f", **facts: object) -> Call:
    return Call(function, (size,), **facts)  # type: ignore[arg-type]  # a worker, versions


def median(predictor: Predictor, asked: Call) -> float:
    return float(np.exp(predictor.estimate([asked]).medians[0]))


def sizes(count: int, *, most: int = 1000) -> Iterator[int]:
    chance = random.Random(SEED)
    return (chance.randint(1, most) for _ in range(count))


def squared(size: int, chance: random.Random) -> float:
    """Seconds of a function that takes the square of its argument."""
    return 1e-4 * size**2 * chance.lognormvariate(0, NOISE)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor()


def teach(predictor: Predictor, count: int = 150) -> random.Random:
    chance = random.Random(SEED)
    for size in sizes(count):
        predictor.observe(call(size), squared(size, chance))
    return chance


# ---- points


@pytest.mark.parametrize("size", [10, 100, 900])
def test_it_learns_how_time_grows_with_an_argument(predictor: Predictor, size: int) -> None:
    teach(predictor)

    assert median(predictor, call(size)) == pytest.approx(1e-4 * size**2, rel=0.35)


def test_it_goes_on_beyond_the_sizes_seen(predictor: Predictor) -> None:
    teach(predictor)

    assert median(predictor, call(2000)) == pytest.approx(400, rel=0.5)


def test_it_knows_the_same_arguments_again(predictor: Predictor) -> None:
    chance = random.Random(SEED)
    times = {f"query {number}": chance.uniform(0.01, 10) for number in range(20)}
    for _ in range(8):
        for query, seconds in times.items():
            predictor.observe(Call("db.run", (query,)), seconds * chance.lognormvariate(0, 0.05))

    for query, seconds in times.items():
        assert median(predictor, Call("db.run", (query,))) == pytest.approx(seconds, rel=0.4)


def test_a_new_function_is_first_taken_for_one_of_its_package(predictor: Predictor) -> None:
    for number in range(30):
        predictor.observe(call(5, function=f"slow.m.f{number % 6}"), 20.0)
        predictor.observe(call(5, function=f"fast.m.f{number % 6}"), 0.002)

    slow, fast = (median(predictor, call(5, function=f"{name}.m.new")) for name in ("slow", "fast"))

    assert slow > 20 * fast


def test_a_slow_worker_is_told_from_a_fast_one(predictor: Predictor) -> None:
    for number in range(60):
        worker, seconds = ("slow", 4.0) if number % 3 == 0 else ("fast", 1.0)
        predictor.observe(call(number, worker=worker), seconds)

    assert median(predictor, call(50, worker="slow")) == pytest.approx(4.0, rel=0.3)
    assert median(predictor, call(50, worker="fast")) == pytest.approx(1.0, rel=0.3)


def test_a_new_version_is_told_from_the_old(predictor: Predictor) -> None:
    for seconds, version in ((1.0, "1.0"), (3.0, "2.0")):
        for _ in range(30):
            predictor.observe(call(5, versions={"p": version}), seconds)

    assert median(predictor, call(5, versions={"p": "2.0"})) == pytest.approx(3.0, rel=0.15)


def test_it_follows_a_function_that_becomes_slower(predictor: Predictor) -> None:
    for number in range(300):
        predictor.observe(call(5), 1.0 + number / 100)

    assert median(predictor, call(5)) == pytest.approx(4.0, rel=0.1)


# ---- how sure


def test_what_is_unknown_is_wide_and_never_nothing(predictor: Predictor) -> None:
    (quantiles,) = predictor.estimate([call(5)]).quantiles()

    assert quantiles[0] > 0 and quantiles[-1] > 50 * quantiles[0]


def test_quantiles_never_cross(predictor: Predictor) -> None:
    chance = random.Random(SEED)
    for size in sizes(120):
        quantiles = predictor.estimate([call(size)]).quantiles()
        assert (np.diff(quantiles) >= 0).all()
        predictor.observe(call(size), chance.choice([0.01, 5.0]) * size)


def test_as_many_calls_lie_in_an_interval_as_it_says(predictor: Predictor) -> None:
    chance = teach(predictor, 100)
    within = []
    for size in sizes(600):
        made = predictor.estimate([call(size)])
        seconds = squared(size, chance)
        (quantiles,) = made.quantiles()
        within.append([seconds <= each for each in quantiles])
        predictor.observe(call(size), seconds, made=made)

    below = dict(zip(LEVELS.tolist(), np.mean(within, axis=0).tolist(), strict=True))

    assert below[0.95] - below[0.05] == pytest.approx(0.9, abs=0.04)
    assert below[0.9] - below[0.1] == pytest.approx(0.8, abs=0.06)
    assert below[0.5] == pytest.approx(0.5, abs=0.08)


# ---- failures and time-outs


def test_failures_say_nothing_of_successes(predictor: Predictor) -> None:
    for number in range(100):
        predictor.observe(call(5), 1.0)
        if number % 2:
            predictor.observe(call(5), 0.001, outcome="failed")

    assert median(predictor, call(5)) == pytest.approx(1.0, rel=0.05)


def test_a_time_out_is_the_least_that_a_call_needs(predictor: Predictor) -> None:
    for _ in range(10):
        predictor.observe(call(5), 1.0)
    for _ in range(10):
        predictor.observe(call(5), 8.0, outcome="timeout")

    assert median(predictor, call(5)) > 8.0


# ---- cost


def test_many_calls_are_estimated_as_one_by_one(predictor: Predictor) -> None:
    teach(predictor)
    teach_others(predictor, 5)
    calls = [call(size) for size in sizes(30)]
    calls += [call(size, function=f"other.m.f{size % 8}") for size in sizes(30)]

    together = predictor.estimate(calls).quantiles()

    alone = [predictor.estimate([each]).quantiles()[0] for each in calls]
    assert together == pytest.approx(np.array(alone), rel=1e-6)


def teach_others(predictor: Predictor, count: int) -> None:
    for number in range(count):
        for size in sizes(12):
            predictor.observe(call(size, function=f"other.m.f{number}"), 0.01 * size)


def test_the_same_calls_teach_the_same(predictor: Predictor) -> None:
    another = Predictor()
    teach(predictor)
    teach(another)

    asked = [call(size) for size in sizes(20)]
    assert (predictor.estimate(asked).quantiles() == another.estimate(asked).quantiles()).all()


def test_of_too_many_functions_those_seen_last_are_known_by_their_calls(
    predictor: Predictor,
) -> None:
    for number in range(FUNCTIONS + 10):
        predictor.observe(call(5, function=f"p.m.f{number}"), 1.0)

    assert len(predictor.functions) == FUNCTIONS
    assert "p.m.f0" not in predictor.functions
    assert median(predictor, call(5, function="p.m.f0")) == pytest.approx(1.0, rel=0.3)


def test_a_call_is_judged_by_how_well_its_function_was_known_when_it_was_predicted(
    predictor: Predictor,
) -> None:
    calls = [call(size) for size in range(20)]
    made = predictor.estimate(calls)

    for index, each in enumerate(calls):  # all were sent before the first had ended
        predictor.observe(each, 3.0, made=made.one(index))

    unknown, *known = predictor.intervals.kin
    assert len(unknown) == 20 and not any(known)


def test_guesses_that_were_far_off_do_not_widen_what_is_known_by_now(
    predictor: Predictor,
) -> None:
    predictor.observe(call(1, function="p.m.other"), 0.3)
    asked = [call(size) for size in range(40)]
    made = predictor.estimate(asked)  # by what the other function took
    for index, each in enumerate(asked):
        predictor.observe(each, 0.001 * (1 + index), made=made.one(index))

    ((*_, p95, _),) = predictor.estimate([call(20)]).quantiles()

    assert p95 < 0.1


def test_a_functions_first_call_was_guessed_and_is_not_held_against_its_estimates(
    predictor: Predictor,
) -> None:
    predictor.observe(call(1, function="p.m.other"), 600.0)

    predictor.observe(call(5), 0.001)
    assert predictor.error_factor(call(5).function) is None
    predictor.observe(call(5), 0.001)

    factor = predictor.error_factor(call(5).function)
    assert factor is not None and factor < 3.0


def test_what_other_arguments_take_than_the_only_ones_so_far_is_not_known(
    predictor: Predictor,
) -> None:
    for _ in range(50):
        predictor.observe(call(1000), 0.001)

    same, other = predictor.estimate([call(1000), call(100_000)]).quantiles()
    assert same[-2] < 0.002
    assert other[0] < 0.0005 and other[-2] > 0.005

    predictor.observe(call(100_000), 0.1)
    ((*_, p95, _),) = predictor.estimate([call(1000)]).quantiles()
    assert p95 < 0.002
