"""`/v1/blobs`, and blobs in other replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from task_server.errors import TooLarge
from task_server.server.access import Caller
from task_server.server.http import BYTES, Call, Reply, encode
from task_server.server.request import Disconnected
from task_server.server.routing import BOTH, Route
from task_server.server.state import State
from task_server.store.blobs import OpenBlob, absent, check_name

OF_WORKERS = 0
"""Owner of what workers uploaded: whoever can name the digest of an answer may read it."""


async def put(state: State, call: Call) -> Reply:
    """Store a blob, streamed."""
    call.query()
    if call.caller.kind != "worker":  # what runs may end
        state.space.check_intake()
        state.budget.check_intake()
    name = call.params["name"]
    check_name(name)
    length = call.header(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > state.settings.blob_bytes:
        raise TooLarge(f"a blob may have {state.settings.blob_bytes} bytes")
    began = state.clock()
    size = await state.blobs.put(name, call.pieces())
    state.budget.add(size)
    await state.store.keep_blob(
        name, _owner(call.caller), size=size, now=state.clock(), began=began
    )
    return Reply(encode({"blob": name, "size": size}), 201)


async def get(state: State, call: Call) -> Reply:
    """A blob, streamed."""
    name = call.params["name"]
    await _check_readable(state, call.caller, name)
    return reply_with(call, await state.blobs.open(name), content_type=BYTES)


async def head(state: State, call: Call) -> Reply:
    """Whether a blob is there, and its size."""
    name = call.params["name"]
    await _check_readable(state, call.caller, name)
    size = await state.blobs.size(name)
    if size is None:
        raise absent()
    if call.caller.kind != "worker":  # who finds it there counts on it
        await state.store.renew_blob(name, now=state.clock())
    return Reply(_nothing(), content_type=BYTES, size=size)


def reply_with(
    call: Call, blob: OpenBlob, *, content_type: bytes, before: bytes = b"", after: bytes = b""
) -> Reply:
    """A reply that streams a blob, between `before` and `after`, while the caller is there."""
    size = len(before) + blob.size + len(after)
    return Reply(_pieces(call, blob, before, after), content_type=content_type, size=size)


async def _pieces(call: Call, blob: OpenBlob, before: bytes, after: bytes) -> AsyncIterator[bytes]:
    # What is sent to somebody who has gone is dropped in silence: it would be read to its end.
    yield before
    async with aclosing(blob.pieces) as pieces:
        async for piece in pieces:
            if call.departure.has_happened:
                raise Disconnected
            yield piece
    yield after


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _owner(caller: Caller) -> int:
    return OF_WORKERS if caller.kind == "worker" else caller.owner


async def _check_readable(state: State, caller: Caller, name: str) -> None:
    """Raise NotFound for what is another's, as for what is not there."""
    check_name(name)
    if caller.kind != "user" or await state.store.has_blob(name, caller.owner):
        return
    if not await state.store.has_blob(name, OF_WORKERS):
        raise absent()


ROUTES = [
    Route("PUT", "/v1/blobs/{name}", put, BOTH),
    Route("GET", "/v1/blobs/{name}", get, BOTH),
    Route("HEAD", "/v1/blobs/{name}", head, BOTH),
]
