"""Environment requests that no task made."""

from __future__ import annotations

import msgspec

from task_server.store.postgres.group import Group
from task_server.store.postgres.memory import FAILED, LOCKED, TO_LOCK, Request

_MAKE = """
INSERT INTO environment_requests (text, python, environment, state) VALUES ($1, $2, $3, $4)
ON CONFLICT (text) DO NOTHING"""
_FIND = """
SELECT request, text, python, environment, state FROM environment_requests
 WHERE text = $1 FOR UPDATE"""
_LOCK_AGAIN = """
UPDATE environment_requests SET state = 0, tries = 0, try_at = 0, error = NULL
 WHERE request = $1"""


async def ask_for_lock(group: Group, text: str, *, python: str, environment: str | None) -> None:
    """Have a request and its lock; one that failed is tried anew."""
    group.is_durable = True
    state = TO_LOCK if environment is None else LOCKED
    await group.execute(_MAKE, text, python, environment, state)
    [row] = await group.fetch(_FIND, text)
    request = Request(*row)
    if request.state == FAILED:  # the index may have it by now
        await group.execute(_LOCK_AGAIN, request.number)
        request = msgspec.structs.replace(request, state=TO_LOCK)
    group.requests.append(request)
    group.has_new_requests |= request.state == TO_LOCK
