from __future__ import annotations

import base64
import collections
import decimal
import itertools
import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.client.blob import Blob
from task_server.client.payloads import (
    INLINE_BYTES,
    INLINE_JSON_BYTES,
    VISIBLE_BYTES,
    decode_inline,
    digest_of,
    encode_arguments,
    is_plain,
    put_form,
)
from task_server.errors import TaskServerError

BLOB = Blob("sha256:" + "0" * 64, "bytes", 3)

plain_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children) | st.dictionaries(st.text(max_size=3), children),
    max_leaves=20,
)


class Shout(str):
    pass


def members(*args: Any, **kwargs: Any) -> Any:
    return json.loads(b"{" + encode_arguments(args, kwargs).members + b"}")


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@given(plain_values)
def test_plain_values_travel_as_json_and_come_out_equal(value: Any) -> None:
    sent = members(value, name=value)

    assert sent["args"] == [value]
    assert sent["kwargs"] == {"name": value}
    assert repr(sent["args"]) == repr([value])


@pytest.mark.parametrize(
    "value",
    [
        (1, 2),
        {1, 2},
        b"bytes",
        math.nan,
        math.inf,
        [1.0, -math.inf],
        "\ud800",
        ["\udfff"],
        {1: 2},
        {"\ud800": 1},
        {"$blob": "a user's own"},
        {"$bytes": "a user's own"},
        Shout("loud"),
        True + 1j,
        decimal.Decimal(1),
        collections.OrderedDict(a=1),
        10**4300,
        -(10**4300),
        [[10**4300]],
        deep(200),
    ],
    ids=itertools.count(),
)
def test_what_json_would_change_is_pickled(value: Any) -> None:
    sent = members(value, name=value)

    args, kwargs = pickle.loads(base64.b64decode(sent["call"]["data"]))
    assert set(sent) >= {"call"} and "args" not in sent
    assert args[0] == value or args[0] is not args[0] or str(args) == str((value,))
    assert type(args[0]) is type(value) and kwargs.keys() == {"name"}


def test_the_longest_integer_that_json_readers_take_is_plain() -> None:
    assert is_plain(10**4300 - 1) and is_plain(-(10**4300) + 1)
    assert members(10**300)["args"] == [10**300]


def test_a_value_that_holds_itself_is_pickled() -> None:
    value: list[Any] = []
    value.append(value)

    assert "call" in members(value)


def test_a_large_pickle_becomes_a_blob() -> None:
    payload = encode_arguments((b"x" * INLINE_BYTES,), {})

    (content,) = payload.contents
    assert json.loads(b"{" + payload.members + b"}") == {
        "call": {"encoding": "pickle", "blob": content.digest},
        "features": {"0.bytes": INLINE_BYTES},
    }
    assert content.digest == digest_of(content.data)
    assert pickle.loads(content.data) == ((b"x" * INLINE_BYTES,), {})


def test_large_json_becomes_a_blob() -> None:
    payload = encode_arguments(("x" * INLINE_JSON_BYTES,), {"k": 1})

    assert payload.contents[0].data.startswith(b'[["xxx')
    assert payload.contents[0].data.endswith(b'"],{"k":1}]')


def test_a_blob_stands_in_json_arguments_at_any_depth() -> None:
    mark = {"$blob": BLOB.digest, "as": "bytes"}

    assert members(BLOB, [{"a": BLOB}], k=BLOB) == {
        "args": [mark, [{"a": mark}]],
        "kwargs": {"k": mark},
        "features": {"0.bytes": BLOB.size, "1.len": 1, "k.bytes": BLOB.size},
    }


def test_what_the_server_cannot_see_or_does_not_look_into_is_described() -> None:
    assert members((1, 2), how="fast")["features"] == {
        "0.len": 2,
        "0.0": 1,
        "0.1": 2,
        "0.sum": 3,
        "0.max": 2,
        "how": "fast",
    }
    assert members("x" * VISIBLE_BYTES)["features"] == {"0.len": VISIBLE_BYTES}
    assert members("x" * INLINE_JSON_BYTES, k=1)["features"] == {"0.len": INLINE_JSON_BYTES, "k": 1}
    assert "features" not in members(1, "text", [2.5], k={"a": None})
    assert "features" not in members("\ud800")


def test_beside_a_blob_each_value_that_only_pickles_is_a_blob_of_its_own() -> None:
    payload = encode_arguments((BLOB, (1, 2), 3), {"k": {4}})
    sent = json.loads(b"{" + payload.members + b"}")

    pair, four = payload.contents
    assert sent["args"] == [
        {"$blob": BLOB.digest, "as": "bytes"},
        {"$blob": pair.digest, "as": "pickle"},
        3,
    ]
    assert sent["kwargs"] == {"k": {"$blob": four.digest, "as": "pickle"}}
    assert pickle.loads(pair.data) == (1, 2) and pickle.loads(four.data) == {4}


def test_a_blob_inside_a_value_that_only_pickles_is_refused_with_the_way_out() -> None:
    with pytest.raises(TaskServerError, match="argument of its own"):
        encode_arguments(((BLOB, 1),), {})


def test_what_cannot_be_pickled_is_refused() -> None:
    with pytest.raises(TaskServerError, match="cannot be pickled"):
        encode_arguments([(letter for letter in "abc")], {})


def test_an_argument_with_code_in_it_asks_for_this_python() -> None:
    assert encode_arguments((lambda: 1,), {}).needs_this_python
    assert not encode_arguments(((1, 2),), {}).needs_this_python


def test_answers_are_read_in_both_encodings() -> None:
    pickled = json.dumps(base64.b64encode(pickle.dumps({1, 2})).decode()).encode()

    assert decode_inline("pickle", pickled) == {1, 2}
    assert decode_inline("json", b'{"a":[1,2.5,null]}') == {"a": [1, 2.5, None]}
    assert decode_inline("json", b"1" + b"0" * 400) == 10**400


def test_an_answer_that_does_not_unpickle_says_what_to_do() -> None:
    broken = json.dumps(base64.b64encode(b"cno_such_module\nx\n.").decode()).encode()

    with pytest.raises(TaskServerError, match="result_encoding"):
        decode_inline("pickle", broken)


@pytest.mark.parametrize(
    ("value", "form"), [(b"x", "bytes"), ("x", "json"), ([1], "json"), ((1,), "pickle")]
)
def test_a_stored_value_has_the_form_that_keeps_it(value: object, form: str) -> None:
    assert put_form(value)[1] == form
