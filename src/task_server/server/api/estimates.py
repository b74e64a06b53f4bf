"""`/v1/estimates`."""

from __future__ import annotations

from msgspec import UNSET

from task_server.errors import Invalid
from task_server.server.http import NDJSON, Call, Reply, check_json, encode
from task_server.server.routing import USER, Route
from task_server.server.service import estimate
from task_server.server.service.asking import asked
from task_server.server.service.more_slots import eta_by_slots
from task_server.server.service.submit import read_body
from task_server.server.state import State


async def post(state: State, call: Call) -> Reply:
    """What the tasks of a submit's body would cost; nothing is stored."""
    is_lines = check_json(call, NDJSON) == NDJSON
    query = call.query("calls")
    if query.get("calls", "all") != "all":
        raise Invalid("calls is `all` or absent", field="calls")
    body = await call.body(state.settings.body_bytes)
    read, _ = await read_body(state, call.caller, body, is_lines=is_lines)
    lists_calls = len(read.tasks) <= estimate.MAXIMUM_CALLS or "calls" in query
    told = await asked(state, read, lists_calls=lists_calls)
    calls = [call.p50 for call in told.calls or ()]
    longest = max(calls or [estimate.price_of(state, spec).p50 for spec in read.specs])
    if told.eta_by_slots is UNSET:
        told.eta_by_slots = await eta_by_slots(state, told, longest=longest)
    return Reply(encode(told))


ROUTES = [Route("POST", "/v1/estimates", post, USER)]
