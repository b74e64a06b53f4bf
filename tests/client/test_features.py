from __future__ import annotations

import math
import time
from typing import Any

import numpy
import pytest

from task_server.client.features import LONGEST_NAME, LONGEST_TEXT, MAXIMUM, features_of


def of(value: Any) -> dict[str, float | str]:
    return features_of([value], {})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (5, {"0": 5}),
        (2.5, {"0": 2.5}),
        (10**400, {"0": 1e300}),
        (-(10**400), {"0": -1e300}),
        (math.inf, {"0": "inf"}),
        (math.nan, {"0": "nan"}),
        (True, {"0": "True"}),
        (None, {"0": "None"}),
        ("csv", {"0": "csv"}),
        ("x" * 41, {"0.len": 41}),
        (b"abc", {"0.bytes": 3}),
        (memoryview(b"abcd"), {"0.bytes": 4}),
        ({1, 2}, {"0.len": 2}),
        (range(7), {"0.len": 7}),
        ((1, 2.5), {"0.len": 2, "0.0": 1, "0.1": 2.5, "0.sum": 3.5, "0.max": 2.5}),
        (("a", [1]), {"0.len": 2, "0.0": "a"}),
        ({"n": 3, "rest": []}, {"0.len": 2, "0.n": 3}),
        ({1: 2}, {"0.len": 1}),
        ([1] * 1000, {"0.len": 1000}),
    ],
)
def test_plain_values_are_known_by_number_text_and_size(
    value: Any, expected: dict[str, float | str]
) -> None:
    assert of(value) == expected


def test_arrays_are_known_by_shape_and_type() -> None:
    assert of(numpy.zeros((100, 20), "float32")) == {
        "0.type": "ndarray",
        "0.shape.0": 100,
        "0.shape.1": 20,
        "0.size": 2000,
        "0.dtype": "float32",
        "0.bytes": 8000,
    }
    assert of(numpy.float64(2.5))["0.type"] == "float64"


def test_keywords_go_by_their_names() -> None:
    found = features_of([1], {"table": numpy.zeros(3), "how": "fast"})

    assert (found["0"], found["table.shape.0"], found["how"]) == (1, 3, "fast")


class Settings:
    def __init__(self) -> None:
        self.depth = 4
        self.name = "deep"
        self.rest = [1]

    @property
    def costly(self) -> int:
        raise AssertionError("a property was read")

    def __len__(self) -> int:
        raise AssertionError("a length was asked for")


def test_objects_are_known_by_their_type_and_plain_attributes() -> None:
    assert of(Settings()) == {"0.type": "Settings", "0.depth": 4, "0.name": "deep"}


class Broken:
    @property
    def shape(self) -> tuple[int, ...]:
        raise RuntimeError("lazy")


class Unknown:
    shape = (None, 3)


@pytest.mark.parametrize("value", [Broken(), Unknown()])
def test_what_has_no_proper_shape_is_known_by_its_type(value: Any) -> None:
    assert of(value) == {"0.type": type(value).__name__}


def test_there_are_never_too_many_nor_too_long_ones() -> None:
    many = features_of([numpy.zeros((2, 2))] * 30, {})
    long = features_of([], {"x" * 99: 1, "y" * 200: 2, "z" * 98: numpy.zeros(3)})

    assert len(many) == MAXIMUM
    assert long == {"x" * 99: 1}
    assert max(map(len, long)) <= LONGEST_NAME
    assert all(len(each) <= LONGEST_TEXT for each in many.values() if isinstance(each, str))


def test_it_costs_microseconds() -> None:
    args = [numpy.zeros((100, 100)), 5, "text", {"a": 1}, list(range(100))]
    best = min(_seconds(args) for _ in range(50))

    assert best < 0.001


def _seconds(args: list[Any]) -> float:
    began = time.thread_time()
    features_of(args, {})
    return time.thread_time() - began
