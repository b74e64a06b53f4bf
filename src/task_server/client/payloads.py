"""Arguments to the wire, and answers back from it.

Arguments travel as JSON when nothing would be lost by it, else pickled. What is pickled carries
functions and classes of the user's own modules by value (`functions.py`).
"""

from __future__ import annotations

import binascii
import hashlib
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from task_server.client.blob import Blob, BlobForm
from task_server.client.features import features_of
from task_server.client.functions import needs_this_python, pickled
from task_server.errors import TaskServerError

INLINE_BYTES = 64 * 1024
"""A larger pickle travels as a blob."""
INLINE_JSON_BYTES = 4 * 1024 * 1024
"""Larger JSON arguments travel as a blob."""
VISIBLE_BYTES = 16 * 1024
"""Larger JSON arguments are more than the server looks into when it estimates."""
DEEPEST = 100
"""Levels of lists and objects in JSON arguments; the server takes 128."""
_LARGEST = 10**4300
_MARKS = frozenset({"$blob", "$bytes", "$float"})
_AS_THEY_ARE = frozenset({str, bool, type(None)})


class Content(Struct, frozen=True):
    """Bytes that must be stored before what refers to them is submitted."""

    digest: str
    data: bytes


class Payload(Struct, frozen=True):
    """The fields of a TASK that hold or describe its arguments, as JSON members without braces."""

    members: bytes
    contents: tuple[Content, ...] = ()
    needs_this_python: bool = False
    """The pickle holds code objects, which only the same minor version of Python can read."""


def digest_of(data: bytes) -> str:
    """The name of a blob with these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def base64_text(data: bytes) -> str:
    """Base64 as the wire has it."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    """How a call's arguments travel."""
    plain = _as_json(args, kwargs)
    if plain is None:
        return _described(_as_pickle(tuple(args), dict(kwargs)), args, kwargs)
    if len(plain) > INLINE_JSON_BYTES:
        return _described(_as_json_blob(args, kwargs), args, kwargs)
    if len(plain) > VISIBLE_BYTES or b'"$blob"' in plain:
        return _described(Payload(plain), args, kwargs)
    return Payload(plain)


def _described(payload: Payload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    """With features of what the server does not see."""
    found = features_of(args, kwargs)
    if not found:
        return payload
    try:
        members = payload.members + b',"features":' + _encode(found)
    except UnicodeEncodeError:  # a lone surrogate: there are rather none
        return payload
    return Payload(members, payload.contents, payload.needs_this_python)


def is_plain(value: object, depth: int = DEEPEST) -> bool:
    """Whether JSON gives back exactly this value (text with lone surrogates is found later)."""
    kind = type(value)
    if kind is int:
        return -_LARGEST < value < _LARGEST  # type: ignore[operator]
    if kind is float:
        return isfinite(value)  # type: ignore[arg-type]
    if kind is list:
        return depth > 0 and _are_plain(value, depth - 1)  # type: ignore[arg-type]
    if kind is dict:
        return depth > 0 and _is_plain_object(value, depth - 1)  # type: ignore[arg-type]
    return kind in _AS_THEY_ARE or kind is Blob


def put_form(value: object) -> tuple[bytes, BlobForm]:
    """How a value is stored as a blob."""
    if type(value) is bytes:
        return value, "bytes"
    if is_plain(value):
        with suppress(UnicodeEncodeError, TypeError):  # a lone surrogate; a Blob inside
            return msgspec.json.encode(value), "json"
    return pickled(value), "pickle"


def decode_value(encoding: str | None, data: bytes) -> Any:
    """The value in an answer's bytes, of either encoding. Unpickling runs the sender's code."""
    if encoding == "pickle":
        return _unpickled(data)
    return _from_json(data)


def decode_inline(encoding: str | None, answer: bytes) -> Any:
    """The value of an answer as it stands in a reply: JSON, or a JSON text with base64."""
    if encoding == "pickle":
        return _unpickled(binascii.a2b_base64(msgspec.json.decode(answer, type=str)))
    return _from_json(answer)


def _from_json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TaskServerError(f"the answer is not JSON: {error}") from error


def _unpickled(data: bytes) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:  # whatever the value's own code raises
        raise TaskServerError(
            f"the answer cannot be unpickled here: {type(error).__name__}: {error};"
            " options(result_encoding='json') asks for it as JSON"
        ) from error


def _are_plain(values: Iterable[object], depth: int) -> bool:
    kinds = set(map(type, values))
    if kinds <= _AS_THEY_ARE:
        return True
    if kinds == {float}:
        return all(map(isfinite, values))  # type: ignore[arg-type]
    return all([is_plain(value, depth) for value in values])  # noqa: C419  (faster as a list)


def _is_plain_object(value: dict[object, object], depth: int) -> bool:
    if set(map(type, value)) - {str} or not _MARKS.isdisjoint(value):
        return False
    return _are_plain(value.values(), depth)


def _blob_mark(value: object) -> object:
    if isinstance(value, Blob):
        return {"$blob": value.digest, "as": value.form}
    raise TypeError(type(value).__name__)


_encode = msgspec.json.Encoder(enc_hook=_blob_mark).encode


def _as_json(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes | None:
    for value in args:
        if not is_plain(value):
            return None
    if kwargs and not (_are_plain(kwargs.values(), DEEPEST) and _MARKS.isdisjoint(kwargs)):
        return None
    try:
        if not kwargs:
            return b'"args":' + _encode(args)
        return b'"args":' + _encode(args) + b',"kwargs":' + _encode(kwargs)
    except UnicodeEncodeError:
        return None


def _as_json_blob(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
    content = _content(_encode([list(args), dict(kwargs)]))
    call = {"encoding": "json", "blob": content.digest}
    return Payload(b'"call":' + _encode(call), (content,))


def _as_pickle(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    if any(type(value) is Blob for value in (*args, *kwargs.values())):
        return _beside_blobs(args, kwargs)
    try:
        data = pickled((args, kwargs))
    except TaskServerError as error:
        raise _about_argument(args, kwargs, error) from error.__cause__
    needs = needs_this_python(data)
    if len(data) <= INLINE_BYTES:
        call = {"encoding": "pickle", "data": base64_text(data)}
        return Payload(b'"call":' + _encode(call), (), needs)
    content = _content(data)
    call = {"encoding": "pickle", "blob": content.digest}
    return Payload(b'"call":' + _encode(call), (content,), needs)


def _about_argument(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: TaskServerError
) -> TaskServerError:
    """The error with the name of the argument that cannot be pickled."""
    for name, value in (*enumerate(args), *kwargs.items()):
        try:
            pickled(value)
        except TaskServerError as own:
            return TaskServerError(f"argument {name}: {own}")
    return error


def _beside_blobs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Payload:
    """JSON in which every argument that is not plain stands as a pickled blob of its own."""
    contents: list[Content] = []
    as_blob = _blob_maker(contents)
    members = b'"args":' + _encode([as_blob(value) for value in args])
    members += b',"kwargs":' + _encode({name: as_blob(value) for name, value in kwargs.items()})
    needs = any(needs_this_python(content.data) for content in contents)
    return Payload(members, tuple(contents), needs)


def _is_text(value: object) -> bool:
    try:
        _encode(value)
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return True


def _blob_maker(contents: list[Content]) -> Callable[[object], object]:
    def as_blob(value: object) -> object:
        if is_plain(value) and _is_text(value):
            return value
        content = _content(pickled(value))
        contents.append(content)
        return Blob(content.digest, "pickle", len(content.data))

    return as_blob


def _content(data: bytes) -> Content:
    return Content(digest_of(data), data)
