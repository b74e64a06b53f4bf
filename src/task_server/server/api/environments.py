"""`/v1/environments`: locks, and environments that workers are to have ready."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from msgspec import Struct

from task_server.environments.lock import parse_lock
from task_server.errors import Invalid, NotFound
from task_server.protocol.payload import check_keys
from task_server.server.http import (
    Call,
    Reply,
    check_json,
    check_object,
    decode,
    encode,
    seconds_in,
)
from task_server.server.routing import BOTH, USER, Route
from task_server.server.service import environments
from task_server.server.service.environments import Progress, Wanted
from task_server.server.service.estimate import live_sessions
from task_server.server.service.views import moment
from task_server.server.state import State

MAXIMUM_LISTED = 1000
MAXIMUM_WAIT = 60.0
LOOK_SECONDS = 0.2

T = TypeVar("T")


class Collect(Struct, forbid_unknown_fields=True):
    """The body of a collection."""

    environments: list[str] = []
    """Digests of those that are wanted no longer."""


_wanted = msgspec.json.Decoder(Wanted)
_collect = msgspec.json.Decoder(Collect)


async def _find(state: State, call: Call) -> tuple[str, str, float]:
    found = await state.store.environment(call.params["digest"])
    if found is None:
        raise NotFound("there is no environment of that digest")
    return found


async def _read(state: State, call: Call, decoder: msgspec.json.Decoder[T]) -> T:
    check_json(call)
    body = await call.body(state.settings.plain_body_bytes)
    check_object(body)
    asked = decode(body, decoder)
    check_keys(body)
    return asked


async def _until(
    state: State, look: Callable[[], Awaitable[T]], is_done: Callable[[T], bool], seconds: float
) -> T:
    """What `look` finds when it is done, or when time is up."""
    end = asyncio.get_running_loop().time() + seconds
    found = await look()
    while not is_done(found) and not state.is_stopping:
        left = end - asyncio.get_running_loop().time()
        if left <= 0:
            break
        await asyncio.sleep(min(LOOK_SECONDS, left))
        found = await look()
    return found


async def post(state: State, call: Call) -> Reply:
    """Have an environment built and imported on all workers, or on those with given labels."""
    query = call.query("wait", "until")
    wait = seconds_in(query, "wait", most=MAXIMUM_WAIT)
    until = query.get("until", "over")
    if until not in ("locked", "over"):
        raise Invalid("until is `locked` or `over`", field="until")
    asked = await _read(state, call, _wanted)
    request = await environments.want(state, asked, owner=call.caller.owner)
    found = await _until(
        state,
        lambda: environments.progress_of(state, request, asked.labels),
        lambda progress: progress.is_over or (until == "locked" and progress.state != "locking"),
        wait,
    )
    return Reply(encode(found), 202)


async def collect(state: State, call: Call) -> Reply:
    """Have the environments removed that are neither in use nor wanted."""
    wait = seconds_in(call.query("wait"), "wait", most=MAXIMUM_WAIT)
    asked = await _read(state, call, _collect)
    if len(asked.environments) > MAXIMUM_LISTED or not all(map(_is_digest, asked.environments)):
        message = f"environments are up to {MAXIMUM_LISTED} digests of 64 letters"
        raise Invalid(message, field="environments")
    await environments.collect(state, asked.environments)
    found: Progress = await _until(
        state,
        lambda: environments.progress_of(state, "", {}),
        lambda progress: progress.is_over or not progress.workers,
        wait,
    )
    return Reply(encode({"workers": found.workers}), 202)


def _is_digest(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{64}", text) is not None


async def listed(state: State, call: Call) -> Reply:
    """Environments, newest first: what they were asked for as, and how many workers have them."""
    call.query()
    sessions = await live_sessions(state)
    orders = await state.store.orders(state.clock())
    until = {row.environment: row.until for row in orders if row.environment is not None}
    rows = [
        {
            "environment": row.digest,
            "python": row.python,
            "requirements": await environments.asked_as(state, row),
            "ready": sum(each.environments.get(row.digest) == "ready" for each in sessions),
            "workers": len(sessions),
            "wanted_until": moment(until.get(row.digest)),
            "created_at": moment(row.created_at),
        }
        for row in await state.store.environments(MAXIMUM_LISTED)
    ]
    return Reply(encode({"environments": rows, "next": None}))


async def get(state: State, call: Call) -> Reply:
    """An environment: its Python, what is in it, its lock, and how far each worker is with it."""
    call.query()
    python, lock, created_at = await _find(state, call)
    digest = call.params["digest"]
    orders, workers = await environments.workers_with(state, digest)
    shown = {
        "environment": digest,
        "python": python,
        "versions": parse_lock(lock, python=python).versions(),
        "wanted_until": moment(max((row.until for row in orders), default=None)),
        "modules": sorted({module for row in orders for module in row.modules}),
        "workers": workers,
        "lock": lock,
        "created_at": moment(created_at),
    }
    return Reply(encode(shown))


async def lock(state: State, call: Call) -> Reply:
    """The lock alone, as text."""
    _, text, _ = await _find(state, call)
    return Reply(text.encode(), content_type=b"text/plain; charset=utf-8")


ROUTES = [
    Route("POST", "/v1/environments", post, USER),
    Route("GET", "/v1/environments", listed, USER),
    Route("POST", "/v1/environments/collect", collect, USER),
    Route("GET", "/v1/environments/{digest}/lock", lock, BOTH),
    Route("GET", "/v1/environments/{digest}", get, BOTH),
]
