"""A predictor as bytes: one piece for each function, and one for what all functions share.

What is taken back goes on exactly as what was saved: the same estimates, to the last bit.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from task_server.prediction.experts import Experts
from task_server.prediction.predictor import Predictor
from task_server.prediction.regression import Recent, Steady

VERSION = 4
"""Of the bytes. What another version wrote is not read: the functions are learned anew."""
_ARRAY = 1


class Unreadable(ValueError):
    """Bytes that are no saved part of a predictor, or of another version."""


def save_function(predictor: Predictor, name: str) -> bytes:
    """What is known of one function."""
    experts = predictor.functions[name]
    parts = vars(experts) | {"history": vars(experts.history)}
    for part in ("recent", "steady"):
        found = parts[part]
        parts[part] = None if found is None else _fields(found)
    return _encode(parts)


def load_function(predictor: Predictor, name: str, saved: bytes) -> None:
    """Take back what `save_function` gave. Raises Unreadable, and then changes nothing."""
    parts = _decode(saved)
    experts = Experts()
    try:
        _set(experts.history, parts.pop("history"))
        recent, steady = parts.pop("recent"), parts.pop("steady")
        _set(experts, parts)
        experts.recent = None if recent is None else Recent(**recent)
        experts.steady = None if steady is None else Steady(**steady)
    except (AttributeError, KeyError, TypeError) as error:
        raise Unreadable(f"a saved function of another kind: {error}") from None
    predictor.functions[name] = experts


def save_shared(predictor: Predictor) -> bytes:
    """What all functions share."""
    return _encode(
        {
            "effects": predictor.effects.state(),
            **predictor.mixture.state(),
            **predictor.intervals.state(),
            "firsts": predictor.firsts,
        }
    )


def load_shared(predictor: Predictor, saved: bytes) -> None:
    """Take back what `save_shared` gave. Raises Unreadable."""
    parts = _decode(saved)
    try:
        predictor.effects.restore(parts["effects"])
        predictor.mixture.restore(parts)
        predictor.intervals.restore(parts)
        predictor.restore_firsts(parts["firsts"])
    except (KeyError, TypeError, ValueError) as error:
        raise Unreadable(f"saved by another kind of predictor: {error}") from None


def _fields(found: Recent | Steady) -> dict[str, Any]:
    return {name: getattr(found, name) for name in type(found).__slots__}


def _set(target: object, parts: dict[str, Any]) -> None:
    if missing := vars(target).keys() - {"history", "recent", "steady"} ^ parts.keys():
        raise KeyError(f"{', '.join(sorted(missing))} of {type(target).__name__}")
    for name, value in parts.items():
        setattr(target, name, value)


def _encode(parts: dict[str, Any]) -> bytes:
    return msgspec.msgpack.encode((VERSION, parts), enc_hook=_packed)


def _decode(saved: bytes) -> dict[str, Any]:
    try:
        version, parts = msgspec.msgpack.decode(saved, ext_hook=_unpacked)
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise Unreadable(f"these are no bytes of a predictor: {error}") from None
    if version != VERSION or not isinstance(parts, dict):
        raise Unreadable(f"saved by version {version}; this is version {VERSION}")
    return parts


def _packed(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        head = f"{value.dtype.str} {' '.join(map(str, value.shape))}".encode()
        return msgspec.msgpack.Ext(_ARRAY, bytes([len(head)]) + head + value.tobytes())
    raise NotImplementedError(type(value).__name__)


def _unpacked(code: int, data: memoryview) -> Any:
    if code != _ARRAY:
        raise ValueError(f"a part of kind {code}")
    start = 1 + data[0]
    kind, *shape = bytes(data[1:start]).decode().split()
    return np.frombuffer(data[start:], kind).reshape([int(size) for size in shape]).copy()
