"""`/livez`, `/readyz`."""

from __future__ import annotations

from task_server.errors import Unavailable
from task_server.server.http import Call, Reply, encode
from task_server.server.routing import PUBLIC, Route
from task_server.server.state import State


async def live(state: State, call: Call) -> Reply:
    """The process answers."""
    return Reply(encode({"live": True}))


async def ready(state: State, call: Call) -> Reply:
    """Requests can be taken: the database answers, and the server does not stop."""
    if state.is_stopping:
        raise Unavailable("the server stops")
    await state.store.environment("")
    return Reply(encode({"ready": True}))


ROUTES = [
    Route(method, path, handler, PUBLIC)
    for path, handler in (("/livez", live), ("/readyz", ready))
    for method in ("GET", "HEAD")
]
