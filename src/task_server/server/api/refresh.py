"""`/v1/environments/refresh`: choose the versions of a request anew."""

from __future__ import annotations

import msgspec

from task_server.errors import Invalid
from task_server.protocol.payload import check_text
from task_server.protocol.tasks import Task
from task_server.server.http import Call, Reply, check_json, decode, encode
from task_server.server.routing import USER, Route
from task_server.server.service.installs import read_installs
from task_server.server.state import State

_BODY_BYTES = 2 * 1024 * 1024
_FIELDS = ("package", "version", "python", "requirements", "script")
_tasks = msgspec.json.Decoder(Task)


async def post(state: State, call: Call) -> Reply:
    """Resolve what these fields of a TASK ask for; tasks submitted from now on get that."""
    call.query()
    check_json(call)
    body = await call.body(_BODY_BYTES)
    check_text(body)
    asked = decode(body, _tasks)
    for name in msgspec.json.decode(body):
        if name not in _FIELDS:
            raise Invalid(f"a refresh takes {', '.join(_FIELDS)}, not {name}", field=name)
    installs = read_installs(
        asked,
        default_python=state.default_python,
        uploads=await state.uploads.of(call.caller.owner),
        policy=state.policy,
    )
    request = installs.requested.environment
    if not request.requirements:
        raise Invalid("there is nothing to refresh: no package is named", field="package")
    previous = (await state.refreshes.known()).get(request.text)
    if previous is None and state.store.knows_request(request.text):
        previous = state.store.environment_of(request.text)
    lock = await state.refreshes.refresh(request)
    shown = {
        "digest": lock.digest,
        "previous": previous,
        "is_changed": lock.digest != previous,
        "python": lock.python,
        "versions": lock.versions(),
    }
    return Reply(encode(shown))


ROUTES = [Route("POST", "/v1/environments/refresh", post, USER)]
"""Before those that have a digest in that place."""
