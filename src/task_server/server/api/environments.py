"""`/v1/environments`: the locks."""

from __future__ import annotations

from task_server.environments.lock import parse_lock
from task_server.errors import NotFound
from task_server.server.http import Call, Reply, encode
from task_server.server.routing import BOTH, Route
from task_server.server.service.views import moment
from task_server.server.state import State


async def _find(state: State, call: Call) -> tuple[str, str, float]:
    found = await state.store.environment(call.params["digest"])
    if found is None:
        raise NotFound("there is no environment of that digest")
    return found


async def get(state: State, call: Call) -> Reply:
    """An environment: its Python, what is in it, its lock, and which workers have it."""
    python, lock, created_at = await _find(state, call)
    digest = call.params["digest"]
    sessions = await state.store.sessions()
    shown = {
        "digest": digest,
        "python": python,
        "versions": parse_lock(lock, python=python).versions(),
        "lock": lock,
        "created_at": moment(created_at),
        "workers": {
            session.facts.name: session.environments[digest]
            for session in sessions
            if digest in session.environments
        },
    }
    return Reply(encode(shown))


async def lock(state: State, call: Call) -> Reply:
    """The lock alone, as text."""
    _, text, _ = await _find(state, call)
    return Reply(text.encode(), content_type=b"text/plain; charset=utf-8")


ROUTES = [
    Route("GET", "/v1/environments/{digest}/lock", lock, BOTH),
    Route("GET", "/v1/environments/{digest}", get, BOTH),
]
