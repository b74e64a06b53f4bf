"""What JSON may be carried."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.errors import Invalid, Malformed
from task_server.protocol.payload import (
    check_keys,
    check_payload,
    check_payloads,
    check_text,
    depth_of,
)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@given(values, st.booleans())
def test_whatever_python_writes_is_taken(value: object, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)

    check_payload(text.encode("utf-8", "replace"), "args")
    check_payloads([b"[1]", text.encode("utf-8", "replace"), b"{}"], "args")


@pytest.mark.parametrize(
    "text",
    [
        "[1e999999]",
        "[-1e309]",
        "[1E+400]",
        '{"a":[0.5e9999]}',
        "[" + "9" * 4301 + "]",
        '{"a":' + "1" * 100_000 + "}",
        r'["\ud800"]',
        r'["\udfff\ud800"]',
        r'["\ud83dx"]',
    ],
)
def test_what_would_come_out_changed_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        check_payload(text.encode(), "args")
    with pytest.raises(Invalid):
        check_payloads([b"[1]", text.encode(), b"{}"], "args")


@pytest.mark.parametrize(
    "text",
    [
        "[1e308]",
        "[1e-999]",
        '["1e999999"]',
        '["' + "9" * 5000 + '"]',
        "[" + "9" * 4300 + "]",
        r'["\ud83d\ude00"]',
        r'["\\ud800"]',
        '["\\u0000"]',
        '["' + "[" * 500 + '"]',
        "[" * 128 + "]" * 128,
    ],
)
def test_what_comes_out_as_it_went_in_is_taken(text: str) -> None:
    check_payload(text.encode(), "args")
    check_payloads([b"[1]", text.encode(), b"{}"], "args")


@pytest.mark.parametrize("text", ["[" * 129 + "]" * 129, "[" * 100_000, '{"a":' * 200 + "1"])
def test_what_is_nested_too_deep_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        check_payload(text.encode(), "args")
    with pytest.raises(Malformed):
        check_payloads([b"[1]", text.encode(), b"{}"], "args")


@given(values)
def test_depth_counts_brackets_outside_of_strings(value: object) -> None:
    def depth(each: object) -> int:
        if isinstance(each, dict):
            return 1 + max(map(depth, each.values()), default=0)
        if isinstance(each, list):
            return 1 + max(map(depth, each), default=0)
        return 0

    assert depth_of(json.dumps(value).encode()) == depth(value)


def test_keys_that_stand_twice_in_the_envelope_are_refused() -> None:
    with pytest.raises(Malformed, match="function"):
        check_keys(b'{"function":"a","args":[{"function":1}],"function":"b"}')


def test_keys_that_stand_twice_inside_of_values_are_not() -> None:
    args, kwargs = b'[{"a":1,"a":2}]', b'{"function":1}'

    check_keys(b'{"function":"a","args":' + args + b',"kwargs":' + kwargs + b"}", args, kwargs)


@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b'"\xc0\xaf"'])
def test_text_is_utf8_without_a_mark(body: bytes) -> None:
    with pytest.raises(Malformed):
        check_text(body)
