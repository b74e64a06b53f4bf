"""`/v1/batches`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import msgspec

from task_server.errors import Invalid
from task_server.protocol import ids
from task_server.protocol.payload import check_keys
from task_server.protocol.tasks import NewBatch
from task_server.server.api.tasks import MAXIMUM_WAIT, absent, identifier
from task_server.server.http import (
    NDJSON,
    Call,
    Reply,
    check_json,
    check_object,
    cursor_in,
    decode,
    encode,
    seconds_in,
)
from task_server.server.routing import USER, Route
from task_server.server.service import answers, views
from task_server.server.service.submit import batch_spec
from task_server.server.state import State
from task_server.store.rows import AnswerRow, BatchRow, Ended

_new = msgspec.json.Decoder(NewBatch)
MAXIMUM_STREAM = 86400.0
_PLACES = re.compile(r"[0-9a-f]{1,8}\.[0-9a-f]{1,15}(,[0-9a-f]{1,8}\.[0-9a-f]{1,15}){0,99}")


async def post(state: State, call: Call) -> Reply:
    """Open a batch."""
    check_json(call)
    call.query()
    body = await call.body(state.settings.plain_body_bytes)
    check_object(body)
    asked = decode(body, _new)
    check_keys(body)
    spec = batch_spec(asked, state.clock(), is_open=True)
    accepted = await state.store.open_batch(call.caller.owner, spec)
    told = {"id": ids.to_text(spec.id), "duplicate": accepted.duplicate}
    return Reply(encode(told), 200 if accepted.duplicate else 201)


async def find(state: State, call: Call) -> BatchRow:
    """The batch of the path. Raises NotFound or Gone."""
    batch = identifier(call.params["id"], "batch")
    row = await state.store.batch(batch, call.caller.sees)
    if row is None:
        raise absent(state, batch, "batch")
    return row


async def get(state: State, call: Call) -> Reply:
    """Progress and ETA; with `wait` once it is done or time is up."""
    wait = seconds_in(call.query("wait"), "wait", most=MAXIMUM_WAIT)
    row = await find(state, call)
    if wait and not _is_done(row):
        await call.unless_gone(asyncio.ensure_future(_done(state, call, row.batch, wait)))
        row = await find(state, call)
    return Reply(encode(await views.batch_view(state, row)))


def _is_done(row: BatchRow) -> bool:
    return not row.is_open and row.ended == row.total


async def _done(state: State, call: Call, batch: int, seconds: float) -> None:
    end = asyncio.get_running_loop().time() + seconds
    with state.waiting.batch(batch) as watch:
        while not state.waiting.is_closed and not _is_done(await find(state, call)):
            left = end - asyncio.get_running_loop().time()
            if left <= 0:
                return
            watch.ended.clear()
            watch.changed.clear()
            await asyncio.wait((asyncio.ensure_future(watch.changed.wait()),), timeout=left)
            # A batch that ends fast would be read anew for each group: once in 50 ms is enough.
            await asyncio.sleep(min(0.05, max(left, 0.0)))


async def close(state: State, call: Call) -> Reply:
    """No more tasks come."""
    call.query()
    batch = identifier(call.params["id"], "batch")
    if not await state.store.close_batch(call.caller.sees, batch):
        raise absent(state, batch, "batch")
    row = await find(state, call)
    state.waiting.touch(row.batch)
    return Reply(encode(await views.batch_view(state, row)))


async def cancel(state: State, call: Call) -> Reply:
    """End what has not ended, or has not started, and close it."""
    only = call.query("only").get("only")
    if only not in (None, "unstarted"):
        raise Invalid("only is unstarted, or absent", field="only")
    batch = identifier(call.params["id"], "batch")
    cancelled = await state.store.cancel_batch(call.caller.sees, batch, unstarted=only is not None)
    if cancelled is None:
        raise absent(state, batch, "batch")
    row = await find(state, call)
    state.waiting.touch(row.batch)
    return Reply(encode({"id": call.params["id"], "cancelled": cancelled}))


async def get_answers(state: State, call: Call) -> Reply:
    """Stream what members came to, as NDJSON, until the closed batch is done."""
    query = call.query("order", "cursor", "wait")
    order = query.get("order", "submitted")
    if order not in ("submitted", "finished"):
        raise Invalid("order is submitted or finished", field="order")
    wait = seconds_in(query, "wait", most=MAXIMUM_STREAM) if "wait" in query else MAXIMUM_STREAM
    begin = _places_in(query) if order == "finished" else cursor_in(query) or 0
    row = await find(state, call)

    def note(ends: Sequence[Ended | AnswerRow]) -> None:
        if row.owner == call.caller.owner:
            for end in ends:
                state.first_reads.note(end.number)

    if isinstance(begin, answers.Places):
        lines = answers.as_ended(state, row, call.caller.sees, begin, wait, note)
    else:
        lines = answers.in_order(state, row, call.caller.sees, begin, wait, note)
    return Reply(call.stream(lines), content_type=NDJSON)


def _places_in(query: dict[str, str]) -> answers.Places:
    text = query.get("cursor", "")
    if text and _PLACES.fullmatch(text) is None:
        raise Invalid("cursor is what the last line said", field="cursor")
    return answers.Places(text)


ROUTES = [
    Route("GET", "/v1/batches/{id}/answers", get_answers, USER),
    Route("POST", "/v1/batches", post, USER),
    Route("GET", "/v1/batches/{id}", get, USER),
    Route("POST", "/v1/batches/{id}/close", close, USER),
    Route("POST", "/v1/batches/{id}/cancel", cancel, USER),
]
