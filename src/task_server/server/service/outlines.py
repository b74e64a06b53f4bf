"""Single tasks of one function come again and again: what they have in common is read once."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

MAXIMUM_BYTES = 4096
"""Of a body that is worth the look."""
_LONGEST_EMPTY = 2
"""Shorter values, as `[]`, stay in the outline."""


class Own(Struct):
    """What a task has of its own; all else of its body is skipped, unread."""

    id: str | None = None
    args: Raw = Raw()
    kwargs: Raw = Raw()


class Outline(Struct, frozen=True):
    """A single task's body with marks in the place of what is its own."""

    text: bytes
    own: Own


_MARKS = (b"\0i", b"\0a", b"\0k")
_owns = msgspec.json.Decoder(Own)


def outline_of(body: bytes) -> Outline | None:
    """None where it cannot be told for certain which bytes are the task's own.

    Bodies of one outline differ in nothing but the values of id, args and kwargs: each value stands
    in its body once, and no mark can be mistaken for a part of it, for JSON holds no zero bytes.
    """
    if len(body) > MAXIMUM_BYTES or b"\0" in body:
        return None
    try:
        own = _owns.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None  # it is wrong: whoever reads it in full says what
    text, identifier = body, (own.id or "").encode()
    for mark, value in zip(_MARKS, (identifier, bytes(own.args), bytes(own.kwargs)), strict=True):
        if len(value) <= _LONGEST_EMPTY:
            continue
        if text.count(value) != 1:
            return None
        text = text.replace(value, mark)
    return Outline(text, own)
