"""What is seen of a call's arguments."""

from __future__ import annotations

import math

import pytest

from task_server.prediction.features import MAXIMUM, Features, features_of


def of(*args: object, **kwargs: object) -> Features:
    return features_of(args, kwargs)


def test_numbers_are_seen_by_name_and_by_size() -> None:
    found = of(1000, factor=-0.5)

    assert found.numbers == {"0": math.log1p(1000), "factor": -math.log1p(0.5)}
    assert found.categories == {}


def test_texts_are_categories_and_lengths() -> None:
    found = of("rows", path="x" * 500)

    assert found.categories["0"] == "rows"
    assert len(found.categories["path"]) == 16, "known by a digest"
    assert found.numbers["path length"] == math.log1p(500)


def test_truth_and_nothing_are_categories() -> None:
    assert of(True, None).categories == {"0": "True", "1": "None"}


def test_a_list_is_seen_by_length_sum_and_maximum() -> None:
    found = of([3.0] * 100)

    assert found.numbers == {
        "0 length": math.log1p(100),
        "0 sum": math.log1p(300),
        "0 maximum": math.log1p(3),
    }


def test_the_members_of_a_short_list_are_seen_and_their_product() -> None:
    found = of([2, 3])

    assert found.numbers["0 1"] == math.log1p(3)
    assert found.numbers["0 product"] == math.log1p(6)


def test_an_array_is_seen_by_its_shape() -> None:
    found = of({"type": "ndarray", "dtype": "float64", "shape": [100, 20]})

    assert found.categories == {"0 type": "ndarray float64"}
    assert found.numbers["0 size"] == math.log1p(2000)
    assert found.numbers["0 1"] == math.log1p(20)


def test_mappings_are_looked_into() -> None:
    assert of({"a": {"b": 7}}).numbers == {"0.a.b": math.log1p(7)}


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        [10**400, 1],
        [math.nan],
        "\ud800",
        "",
        [],
        {},
        {"shape": ["a", None, 10**400]},
        {1: {2: {3: {4: {5: 6}}}}},
        object(),
    ],
)
def test_odd_values_give_finite_numbers(value: object) -> None:
    found = of(value)

    assert all(math.isfinite(number) for number in found.numbers.values())


def test_a_call_has_a_bounded_number_of_features() -> None:
    found = features_of(range(1000), {f"name{number}": "text" for number in range(1000)})

    assert len(found.numbers) + len(found.categories) <= MAXIMUM + 1


def test_equal_arguments_have_equal_digests_and_others_do_not() -> None:
    assert of(1, a="b").digest == of(1, a="b").digest
    assert len({of(1).digest, of(2).digest, of("1").digest, of(a=1).digest}) == 4
