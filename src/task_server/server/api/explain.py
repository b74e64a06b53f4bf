"""`/v1/tasks/{id}/explain`."""

from __future__ import annotations

from task_server.server.api import tasks
from task_server.server.http import Call, Reply, encode
from task_server.server.routing import USER, Route
from task_server.server.service import explain
from task_server.server.state import State


async def get(state: State, call: Call) -> Reply:
    """Why a task waits, where it runs, how it ended."""
    call.query()
    row = await tasks.find(state, call, tasks.identifier(call.params["id"]))
    return Reply(encode(await explain.explain(state, row)))


ROUTES = [Route("GET", "/v1/tasks/{id}/explain", get, USER)]
