"""`/v1/estimates`."""

from __future__ import annotations

from task_server.errors import Invalid
from task_server.server.http import NDJSON, Call, Reply, check_json, encode
from task_server.server.routing import USER, Route
from task_server.server.service import estimate
from task_server.server.service.asking import asked
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
    return Reply(encode(await asked(state, read, lists_calls=lists_calls)))


ROUTES = [Route("POST", "/v1/estimates", post, USER)]
