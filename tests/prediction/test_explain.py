"""What a function's run time depends on."""

import math
import random

import pytest

from task_server.prediction.explain import influences, unexplained
from task_server.prediction.predictor import Call, Predictor

SEED = 7
FUNCTION = "package.module.f"


def taught(count: int = 200) -> Predictor:
    """Seconds grow with the square of the first argument, and treble by a keyword."""
    chance, predictor = random.Random(SEED), Predictor()
    for _ in range(count):
        size, kind = chance.randint(10, 1000), chance.choice(["plain", "slow"])
        seconds = 1e-4 * size**2 * chance.lognormvariate(0, 0.1) * (3.0 if kind == "slow" else 1.0)
        call = Call(FUNCTION, (size, chance.random()), {"kind": kind})
        predictor.observe(call, seconds)
    return predictor


def test_powers_of_numbers_and_factors_of_categories_are_found() -> None:
    found = influences(taught().functions[FUNCTION].history)

    assert [each.feature for each in found][:1] == ["0"]
    size = found[0]
    assert size.exponent == pytest.approx(2.0, abs=0.1)
    assert size.least is not None and size.most is not None
    assert 10 <= size.least < 60 and 900 < size.most <= 1001
    by_kind = [each.factor for each in found if each.feature.startswith("kind")]
    assert max(by_kind) > 1.5
    assert "1" not in [each.feature for each in found], "a number that does not matter"


def test_what_arguments_do_not_explain_is_left() -> None:
    chance, predictor = random.Random(SEED), Predictor()
    sizes = [*sorted((chance.randint(10, 1000) for _ in range(100)), reverse=True), *[300] * 40]
    for number, size in enumerate(sizes):
        predictor.observe(Call(FUNCTION, (size,)), 1e-4 * size**2 * (3.0 if number >= 100 else 1.0))

    left = unexplained(predictor.functions[FUNCTION].history)

    by_size = abs(left[:50].mean() - left[50:100].mean())
    assert by_size < 0.1, "the short calls come last and are no surprise"
    assert left[100:].mean() - left[:100].mean() == pytest.approx(math.log(3.0), abs=0.2)


def test_few_calls_explain_nothing() -> None:
    assert influences(taught(11).functions[FUNCTION].history) == []
