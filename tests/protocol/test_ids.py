"""Ids: UUIDv7 as text and as bytes."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.protocol.ids import (
    MANY,
    from_text,
    from_texts,
    made_at,
    new_id,
    new_ids,
    to_text,
    to_texts,
)

AT = 1_800_000_000.123


def test_ids_are_uuids_of_version_7() -> None:
    for identifier in new_ids(100):
        known = uuid.UUID(bytes=identifier)
        assert (known.version, known.variant) == (7, uuid.RFC_4122)


@pytest.mark.parametrize("count", [0, 1, 5, 4096, 10_000])
def test_a_lists_ids_are_different_and_sort_by_their_order(count: int) -> None:
    ids = new_ids(count, at=AT)

    assert len(set(ids)) == count
    assert ids == sorted(ids)
    assert [to_text(each) for each in ids] == sorted(to_text(each) for each in ids)


def test_later_ids_sort_later() -> None:
    assert new_id(at=AT) < new_id(at=AT + 0.002)


def test_an_id_tells_when_it_was_made() -> None:
    assert made_at(new_id(at=AT)) == pytest.approx(AT, abs=0.001)


@given(st.binary(min_size=16, max_size=16))
def test_the_text_is_the_usual_one(identifier: bytes) -> None:
    assert to_text(identifier) == str(uuid.UUID(bytes=identifier))
    for count in (1, MANY):
        assert (
            to_texts([bytes(16), identifier] * count)
            == [
                to_text(bytes(16)),
                to_text(identifier),
            ]
            * count
        )


def test_the_text_leads_back_to_the_id() -> None:
    new = new_ids(100)
    for identifier in new:
        assert from_text(to_text(identifier)) == identifier
    assert from_texts(to_texts(new)) == new


@given(st.text())
def test_no_other_text_is_an_id(text: str) -> None:
    assert from_text(text) is None
    assert from_texts([text]) is None


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace("-", ""),
        lambda text: f"{{{text}}}",
        lambda text: text[:14] + "4" + text[15:],
        lambda text: text[:19] + "c" + text[20:],
        lambda text: "\u0661" + text[1:],
    ],
)
def test_other_spellings_are_no_ids(change) -> None:  # type: ignore[no-untyped-def]  # a str function
    text = "0194f3e2-8c1b-7a2d-9b3c-1f2e3d4c5b6a"
    assert from_text(text) is not None

    assert from_text(change(text)) is None
    assert from_texts([text, change(text)]) is None
