"""`/v1/blobs`."""

from __future__ import annotations

from task_server.errors import NotFound, TooLarge
from task_server.server.access import Caller
from task_server.server.http import BYTES, Call, Reply, encode
from task_server.server.routing import BOTH, Route
from task_server.server.state import State
from task_server.store.blobs import check_name

OF_WORKERS = 0
"""Owner of what workers uploaded: whoever can name the digest of an answer may read it."""


async def put(state: State, call: Call) -> Reply:
    """Store a blob, streamed."""
    call.query()
    name = call.params["name"]
    check_name(name)
    length = call.header(b"content-length")
    if length is not None and length.isdigit() and int(length[:20]) > state.settings.blob_bytes:
        raise TooLarge(f"a blob may have {state.settings.blob_bytes} bytes")
    size = await state.blobs.put(name, call.pieces())
    await state.store.keep_blob(name, _owner(call.caller), size=size, now=state.clock())
    return Reply(encode({"blob": name, "size": size}), 201)


async def get(state: State, call: Call) -> Reply:
    """A blob, streamed; HEAD tells whether it is there."""
    name = call.params["name"]
    size = state.blobs.size(name)
    if size is None or not await _may_read(state, call.caller, name):
        raise NotFound("there is no blob of that name")
    return Reply(state.blobs.stream(name), content_type=BYTES, size=size)


def _owner(caller: Caller) -> int:
    return OF_WORKERS if caller.kind == "worker" else caller.owner


async def _may_read(state: State, caller: Caller, name: str) -> bool:
    if caller.kind != "user":
        return True
    own = await state.store.has_blob(name, caller.owner)
    return own or await state.store.has_blob(name, OF_WORKERS)


ROUTES = [
    Route("PUT", "/v1/blobs/{name}", put, BOTH),
    Route("GET", "/v1/blobs/{name}", get, BOTH),
    Route("HEAD", "/v1/blobs/{name}", get, BOTH),
]
