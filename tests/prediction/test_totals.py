"""What many calls take together."""

from __future__ import annotations

import random

import numpy as np
import pytest

from task_server.prediction.predictor import Call, Predictor
from task_server.prediction.totals import total_seconds

SEED = 3
LEVELS = (0.05, 0.5, 0.95)


def taught(noise: float) -> tuple[Predictor, random.Random]:
    predictor, chance = Predictor(), random.Random(SEED)
    for _ in range(200):
        size = chance.randint(1, 100)
        predictor.observe(Call("f", (size,)), 0.01 * size * chance.lognormvariate(0, noise))
    return predictor, chance


def total(predictor: Predictor, calls: list[Call]) -> list[float]:
    found = total_seconds(predictor.estimate(calls), [each.function for each in calls], LEVELS)
    return [float(each) for each in found]


def test_the_total_of_known_calls_is_near_their_sum() -> None:
    predictor, _ = taught(0.1)

    _, middle, _ = total(predictor, [Call("f", (size,)) for size in range(1, 101)])

    assert middle == pytest.approx(50.5, rel=0.15)


def test_many_calls_are_surer_than_one_but_never_sure() -> None:
    predictor, _ = taught(0.5)
    calls = [Call("f", (50,))] * 400

    (one_low, _, one_high), (low, _, high) = total(predictor, calls[:1]), total(predictor, calls)

    assert 1.1 < high / low < one_high / one_low


@pytest.mark.timeout(180)  # numpy's threads wait for each other on a busy machine
def test_totals_lie_in_their_interval_as_often_as_it_says() -> None:
    predictor, chance = taught(0.3)
    hits = []
    for _ in range(40):
        chosen = [chance.randint(1, 100) for _ in range(50)]
        low, _, high = total(predictor, [Call("f", (size,)) for size in chosen])
        times = [0.01 * size * chance.lognormvariate(0, 0.3) for size in chosen]
        hits.append(low <= sum(times) <= high)
        for size, seconds in zip(chosen, times, strict=True):
            predictor.observe(Call("f", (size,)), seconds)

    assert np.mean(hits) >= 0.8


def test_nothing_takes_no_time() -> None:
    assert total(Predictor(), []) == [0.0, 0.0, 0.0]
