"""Bodies of submits: what is to be called, with what, under which id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from task_server.client.functions import PYTHON, Target
from task_server.client.options import Options, task_fields
from task_server.client.payloads import (
    INLINE_BYTES,
    Content,
    Payload,
    base64_text,
    digest_of,
    encode_arguments,
)
from task_server.protocol.ids import new_ids, to_text

TASKS_A_REQUEST = 1000
CALLS_AN_ESTIMATE = 20_000
BYTES_A_REQUEST = 4 * 1024 * 1024

Arguments = tuple[Sequence[Any], Mapping[str, Any]]
_encode = msgspec.json.Encoder().encode


class Call(Struct, frozen=True):
    """What all tasks of a submit share: the function and the options, as JSON members."""

    members: bytes
    contents: tuple[Content, ...]
    has_python: bool
    """A Python version is asked for already, by the function or by an option."""


def call_of(target: Target, options: Options, *, inline_bytes: int = INLINE_BYTES) -> Call:
    """The shared part of a submit; a pickle longer than `inline_bytes` travels as a blob."""
    fields = task_fields(options)
    if target.fields.keys() & {"package", "version"}:
        # Said with the call: a version from the options would be that of another package.
        fields = {name: fields[name] for name in fields.keys() - {"package", "version"}}
    contents: tuple[Content, ...] = ()
    function: dict[str, Any] = dict(target.fields)
    if target.pickle is not None:
        text, contents = _by_value(target.pickle, inline_bytes)
        function["function"] = {"pickle": text, "name": target.name, "python": PYTHON}
    has_python = target.pickle is not None or "python" in fields or "environment" in fields
    return Call(_encode({**function, **fields})[1:-1], contents, has_python)


def single(call: Call, payload: Payload, task: str | None) -> bytes:
    """Body of a TASK on its own; estimates need no id."""
    return b"{%s,%s}" % (call.members, members_of(call, payload, task))


def many(call: Call, items: Sequence[bytes], batch: Mapping[str, Any] | None) -> bytes:
    """Body of a list; `batch` describes the closed batch that it makes, if it makes one."""
    head = b'"batch":%s,' % _encode(batch) if batch is not None else b""
    return b'{%s"defaults":{%s},"tasks":[%s]}' % (head, call.members, b",".join(items))


def items_of(
    call: Call, calls: Iterable[Arguments], *, with_ids: bool = True
) -> Iterator[tuple[bytes, tuple[Content, ...]]]:
    """The members of a list, each with the blobs that must be stored before."""
    ids = fresh_ids()
    for args, kwargs in calls:
        payload = encode_arguments(args, kwargs)
        members = members_of(call, payload, next(ids) if with_ids else None)
        yield b"{%s}" % members, payload.contents


def chunks_of(
    items: Iterable[tuple[bytes, tuple[Content, ...]]], *, most: int = TASKS_A_REQUEST
) -> Iterator[tuple[list[bytes], list[Content]]]:
    """Items in portions that fit into one request each."""
    portion: list[bytes] = []
    contents: list[Content] = []
    size = 0
    for item, needed in items:
        if portion and (len(portion) == most or size + len(item) > BYTES_A_REQUEST):
            yield portion, contents
            portion, contents, size = [], [], 0
        portion.append(item)
        contents += needed
        size += len(item)
    if portion:
        yield portion, contents


def fresh_ids() -> Iterator[str]:
    """New ids in their order, made by the dozen."""
    count = 8
    while True:
        yield from map(to_text, new_ids(count))
        count = min(2 * count, 1024)


def members_of(call: Call, payload: Payload, task: str | None) -> bytes:
    """What a task has of its own: arguments, and its id if it has one."""
    members = payload.members
    if payload.needs_this_python and not call.has_python:
        members += b',"python":"%s"' % PYTHON.encode()
    return members if task is None else b'"id":"%s",%s' % (task.encode(), members)


def _by_value(data: bytes, inline_bytes: int) -> tuple[str, tuple[Content, ...]]:
    if len(data) <= inline_bytes:
        return base64_text(data), ()
    content = Content(digest_of(data), data)
    return content.digest, (content,)
