"""`/v1/batches/{id}/events`, `/v1/tasks/{id}/events`: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from task_server.errors import RequestError
from task_server.server.api.batches import find as find_batch
from task_server.server.api.tasks import find as find_task
from task_server.server.api.tasks import identifier
from task_server.server.http import Call, Reply
from task_server.server.routing import USER, Route
from task_server.server.service import events, views
from task_server.server.service.events import MayGoOn, Shown
from task_server.server.state import State

EVENTS = b"text/event-stream"
_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_OVER = Reply(b"", 204, EVENTS)
"""What tells a browser's `EventSource` to ask no more."""


async def of_batch(state: State, call: Call) -> Reply:
    """How far a batch is, whenever that changes, until the closed batch is done."""
    call.query()
    row = await find_batch(state, call)
    last = _last(call)
    if last and _has_all(events.batch_shown(row, await views.batch_view(state, row)), last):
        return _OVER
    return _stream(
        call, events.of_batch(state, row, call.caller.sees, last, _may_go_on(state, call))
    )


async def of_task(state: State, call: Call) -> Reply:
    """How far a task is, whenever that changes, until it has ended."""
    call.query()
    task = identifier(call.params["id"])
    row = await find_task(state, call, task)
    last = _last(call)
    if last and _has_all(events.task_shown(state, row), last):
        return _OVER
    return _stream(
        call, events.of_task(state, task, call.caller.sees, last, _may_go_on(state, call))
    )


def _last(call: Call) -> str:
    return (call.header(b"last-event-id") or b"").decode("latin-1")


def _has_all(shown: Shown, last: str) -> bool:
    return shown.is_over and shown.mark == last


def _stream(call: Call, pieces: AsyncGenerator[bytes]) -> Reply:
    return Reply(call.stream(pieces), content_type=EVENTS, headers=_HEADERS)


def _may_go_on(state: State, call: Call) -> MayGoOn:
    async def may_go_on() -> bool:
        try:
            await state.access.admit(call.request.only(b"authorization"), USER)
        except RequestError:
            return False
        return True

    return may_go_on


ROUTES = [
    Route("GET", "/v1/batches/{id}/events", of_batch, USER),
    Route("GET", "/v1/tasks/{id}/events", of_task, USER),
]
