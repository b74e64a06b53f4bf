"""A predictor that is taken back goes on as the one that was saved."""

from __future__ import annotations

import random

import msgspec
import pytest

from task_server.prediction.history import COLUMNS
from task_server.prediction.predictor import Call, Predictor
from task_server.prediction.saving import (
    VERSION,
    Unreadable,
    load_function,
    load_shared,
    save_function,
    save_shared,
)

SEED = 11
FUNCTION_BYTES = 100_000


def observations(count: int, seed: int) -> list[tuple[Call, float]]:
    chance = random.Random(seed)
    found = []
    for _ in range(count):
        size, name = chance.randint(1, 500), f"p.m.f{chance.randrange(4)}"
        facts = {"worker": chance.choice(["a", "b"]), "versions": {"p": chance.choice("12")}}
        asked = Call(name, (size, chance.choice(["x", "y"])), {"k": [size, 2]}, **facts)  # type: ignore[arg-type]
        found.append((asked, size * chance.lognormvariate(-5, 0.2)))
    return found


def taken_back(predictor: Predictor) -> Predictor:
    again = Predictor()
    load_shared(again, save_shared(predictor))
    for name in predictor.functions:
        load_function(again, name, save_function(predictor, name))
    return again


def test_it_goes_on_exactly_as_before() -> None:
    predictor = Predictor()
    for asked, seconds in observations(600, SEED):
        predictor.observe(asked, seconds)

    again = taken_back(predictor)

    for asked, seconds in observations(200, SEED + 1):
        mine, others = predictor.estimate([asked]), again.estimate([asked])
        assert (mine.quantiles() == others.quantiles()).all()
        predictor.observe(asked, seconds, made=mine)
        again.observe(asked, seconds, made=others)


def test_a_function_of_many_arguments_takes_little_room() -> None:
    predictor, chance = Predictor(), random.Random(SEED)
    for _ in range(500):
        numbers = {f"n{index}": chance.random() * 100 for index in range(COLUMNS // 2)}
        texts = {f"t{index}": f"text {chance.randrange(500)}" for index in range(10)}
        predictor.observe(Call("f", (), {**numbers, **texts}), chance.random())

    assert len(save_function(predictor, "f")) < FUNCTION_BYTES


@pytest.mark.parametrize(
    "saved",
    [
        b"",
        b"nonsense",
        msgspec.msgpack.encode((VERSION + 1, {})),
        msgspec.msgpack.encode((VERSION, {})),
        msgspec.msgpack.encode((VERSION, {"history": {}, "recent": None, "steady": None})),
        msgspec.msgpack.encode((VERSION, [1])),
        msgspec.msgpack.encode(VERSION),
    ],
)
def test_what_cannot_be_read_is_said_and_changes_nothing(saved: bytes) -> None:
    predictor = Predictor()

    with pytest.raises(Unreadable):
        load_function(predictor, "f", saved)
    with pytest.raises(Unreadable):
        load_shared(predictor, saved)

    assert predictor.functions == {}
