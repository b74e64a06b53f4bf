"""A task's arguments: checked once, then carried as the bytes that came."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from task_server.errors import Invalid
from task_server.protocol.payload import check_payload, check_payloads
from task_server.protocol.tasks import Features, Item, Task

INLINE_BYTES = 65536
"""Larger arguments and answers go to the blob store."""
MAXIMUM_FEATURES = 48
MAXIMUM_FEATURE_NAME = 100
MAXIMUM_FEATURE_TEXT = 200
_KEYS = (b'"id"', b'"args"', b'"kwargs"', b'"call"', b'"features"')
_items = msgspec.json.Decoder(list[Item])
BLOB_NAME = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


class Columns(Struct):
    """Items that have nothing but arguments and ids: all of them an id, or none."""

    ids: list[str] | None
    payloads: list[bytes]
    """As `NewTask.payload`."""


def read_columns(raws: Sequence[bytes], shared: Task) -> Columns | None:
    """Items read together; None for others. Raises for arguments that cannot be carried."""
    joined = b",".join(raws)
    try:
        items = _items.decode(b"[" + joined + b"]")
    except (msgspec.DecodeError, RecursionError):
        return None
    texts = [item.id for item in items if item.id is not None]
    all_args = [raw for item in items if (raw := bytes(item.args))]
    all_kwargs = [raw for item in items if (raw := bytes(item.kwargs))]
    counts = (len(texts), len(all_args), len(all_kwargs), 0, 0)
    # As often as an item has it: so none stands twice, and none in the arguments.
    if tuple(map(joined.count, _KEYS)) != counts or len(items) != len(raws):
        return None
    if any(0 < count < len(items) for count in counts):
        return None
    args = all_args or [_array(bytes(shared.args))] * len(items)
    kwargs = all_kwargs or [_object(bytes(shared.kwargs))] * len(items)
    if any(each[0] != 91 for each in args) or any(each[0] != 123 for each in kwargs):  # [ and {
        return None
    if max(map(len, args)) + max(map(len, kwargs)) > INLINE_BYTES:
        return None
    check_payloads(args if all_args else args[:1], "args")
    check_payloads(kwargs if all_kwargs else kwargs[:1], "kwargs")
    payloads = [b'"args":%s,"kwargs":%s' % each for each in zip(args, kwargs, strict=True)]
    return Columns(texts or None, payloads)


def read_arguments(own: Item, shared: Task) -> tuple[bytes, tuple[str, bytes] | None, bool]:
    """The payload, what of it goes to the blob store, and whether a plain worker can take it."""
    if own.call is not None or (shared.call is not None and not _has_arguments(own)):
        return _encoded(own if own.call is not None else shared, own)
    args = _array(bytes(own.args) or bytes(shared.args))
    kwargs = _object(bytes(own.kwargs) or bytes(shared.kwargs))
    check_payload(args, "args")
    check_payload(kwargs, "kwargs")
    if len(args) + len(kwargs) > INLINE_BYTES:
        return b"", ("json", b"[" + args + b"," + kwargs + b"]"), False
    return b'"args":' + args + b',"kwargs":' + kwargs, None, True


def _has_arguments(item: Item | Task) -> bool:
    return any(bytes(each) not in (b"", b"null") for each in (item.args, item.kwargs))


def _array(raw: bytes) -> bytes:
    if raw[:1] == b"[":
        return raw
    if raw in (b"", b"null"):
        return b"[]"
    raise Invalid("args is a list", field="args")


def _object(raw: bytes) -> bytes:
    if raw[:1] == b"{":
        return raw
    if raw in (b"", b"null"):
        return b"{}"
    raise Invalid("kwargs is an object", field="kwargs")


def _encoded(source: Item | Task, own: Item) -> tuple[bytes, tuple[str, bytes] | None, bool]:
    call = source.call
    assert call is not None
    if _has_arguments(own):
        raise Invalid("give either call or args and kwargs", field="call")
    if (call.data is None) == (call.blob is None):
        raise Invalid("call has either data or blob", field="call")
    if call.blob is not None:
        check_blob_name(call.blob, "call.blob")
        return call_of(call.encoding, blob=call.blob), None, False
    data = decoded(call.data or "", "call.data")
    if len(data) > INLINE_BYTES:
        return b"", (call.encoding, data), False
    return call_of(call.encoding, data=call.data), None, False


def read_features(features: Features | None) -> bytes | None:
    """What the client says of the arguments, as JSON; None without. Raises Invalid."""
    if not features:
        return None
    if len(features) > MAXIMUM_FEATURES:
        raise Invalid(f"features are at most {MAXIMUM_FEATURES}", field="features")
    for name, value in features.items():
        if not 0 < len(name) <= MAXIMUM_FEATURE_NAME:
            message = f"a feature's name has 1 to {MAXIMUM_FEATURE_NAME} letters"
            raise Invalid(message, field="features")
        if isinstance(value, str) and len(value) > MAXIMUM_FEATURE_TEXT:
            message = f"{name} is a number or a text of up to {MAXIMUM_FEATURE_TEXT} letters"
            raise Invalid(message, field="features")
    return msgspec.json.encode(features)


def decoded(text: str, field: str) -> bytes:
    """The bytes of base64. Raises Invalid."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise Invalid(f"{field} is not base64", field=field) from None


def check_blob_name(name: str, field: str) -> None:
    """Raise Invalid unless it is `sha256:HEX`."""
    if BLOB_NAME.fullmatch(name) is None:
        raise Invalid(f"{field} is sha256: and 64 hexadecimal digits", field=field)


def call_of(encoding: str, *, data: str | None = None, blob: str | None = None) -> bytes:
    """The payload of an encoded call."""
    where = {"data": data} if blob is None else {"blob": blob}
    return b'"call":' + msgspec.json.encode({"encoding": encoding, **where})
