"""What of arguments may tell how long a call takes, where the server cannot see them itself.

Pickled arguments are bytes to the server. So their numbers, sizes and shapes go beside them, by
names such as `0`, `0.shape.1`, `table.dtype`. Nothing is imported for it and nothing of the
arguments' own code is run but the attributes `shape`, `dtype` and `nbytes` that arrays and frames
have: this must cost microseconds, and a lazy object must stay lazy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import isfinite, prod
from typing import Any

from task_server.client.blob import Blob

MAXIMUM = 48
"""Features of one call."""
LONGEST_NAME = 100
LONGEST_TEXT = 40
"""A longer text is known by its length."""
FEW = 3
"""Members of sequences that are looked at one by one, and axes of arrays."""
MANY = 100
"""Numbers of a sequence that are summed."""
ATTRIBUTES = 8
"""Attributes of an object that are looked at."""

_SIZED = (list, tuple, set, frozenset, dict, deque, bytes, bytearray, memoryview, range)
_LARGEST = 1e300

Feature = float | str


def features_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Feature]:
    """Numbers and short texts by name; those of the first arguments if there are many."""
    found: dict[str, Feature] = {}
    for name, value in _named(args, kwargs):
        for suffix, feature in _of_value(value):
            if len(found) == MAXIMUM:
                return found
            if len(name + suffix) <= LONGEST_NAME:
                found[name + suffix] = feature
    return found


def _named(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for index, value in enumerate(args):
        yield str(index), value
    yield from kwargs.items()


def _of_value(value: Any) -> Iterator[tuple[str, Feature]]:
    plain = _plain(value)
    if plain is not None:
        yield "", plain
    elif isinstance(value, str):
        yield ".len", len(value)
    elif isinstance(value, Blob):
        yield ".bytes", value.size
    elif isinstance(value, _SIZED):
        yield from _of_sized(value)
    elif hasattr(type(value), "shape"):
        yield from _of_array(value)
    else:
        yield from _of_object(value)


def _plain(value: Any) -> Feature | None:
    """A number or a short text as it is; None for what is neither."""
    kind = type(value)
    if kind is int or kind is float:
        return _number(value)
    if kind is bool or value is None:
        return str(value)
    return value if kind is str and len(value) <= LONGEST_TEXT else None


def _number(value: float) -> Feature:
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    return value if -_LARGEST < value < _LARGEST else _LARGEST if value > 0 else -_LARGEST


def _of_sized(value: Collection[Any]) -> Iterator[tuple[str, Feature]]:
    if isinstance(value, bytes | bytearray | memoryview):
        yield ".bytes", value.nbytes if isinstance(value, memoryview) else len(value)
        return
    yield ".len", len(value)
    if isinstance(value, dict):
        yield from _of_members(value.items())
    elif isinstance(value, list | tuple) and len(value) <= MANY:
        yield from _of_members((str(index), each) for index, each in enumerate(value[:FEW]))
        if value and all(type(each) in (int, float) for each in value):
            yield ".sum", _number(sum(value))
            yield ".max", _number(max(value))


def _of_members(members: Any) -> Iterator[tuple[str, Feature]]:
    seen = 0
    for name, member in members:
        plain = _plain(member) if type(name) is str else None
        if plain is not None:
            yield f".{name}", plain
            seen += 1
        if seen == ATTRIBUTES:
            return


def _of_array(value: Any) -> Iterator[tuple[str, Feature]]:
    """An array or a frame, of whatever library."""
    yield ".type", type(value).__name__[:LONGEST_TEXT]
    try:
        shape = tuple(map(int, value.shape))
        dtype = str(getattr(value, "dtype", ""))
        size_bytes = getattr(value, "nbytes", None)
    except Exception:  # whatever the library's own code raises: then it has no such features
        return
    for axis, length in enumerate(shape[:FEW]):
        yield f".shape.{axis}", length
    yield ".size", _number(prod(shape))
    if dtype:
        yield ".dtype", dtype[:LONGEST_TEXT]
    if type(size_bytes) is int:
        yield ".bytes", size_bytes


def _of_object(value: Any) -> Iterator[tuple[str, Feature]]:
    yield ".type", type(value).__name__[:LONGEST_TEXT]
    # Not getattr: a property may do anything.
    attributes = getattr(value, "__dict__", None)
    if type(attributes) is dict:
        yield from _of_members(attributes.items())
