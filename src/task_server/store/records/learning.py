"""What the estimator learns from: attempts that ended their tasks, by their places (server, n)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

import msgspec
from msgspec import Struct

from task_server.store.attempts import Used
from task_server.store.kinds import KindSpec
from task_server.store.records.sql import Rows, fetch_in, first
from task_server.store.states import Encoding, State

ARGUMENTS_BYTES = 16 * 1024
"""Larger arguments are not read: their size, and what the client said of them, has to do."""
_LEARNED = f"({int(State.SUCCEEDED)}, {int(State.FAILED)})"
_ENDED = (
    "SELECT t.n, k.function, k.spec, t.state, t.usage,"
    f" CASE WHEN t.encoding = {int(Encoding.ERROR)} THEN coalesce(t.outcome, o.data) END,"
    " coalesce(t.payload,"
    f" CASE WHEN length(a.data) <= {ARGUMENTS_BYTES} THEN a.data END),"
    " coalesce(length(t.payload), length(a.data)), f.data, w.id, r.environment"
    " FROM tasks t JOIN kinds k USING (kind) JOIN lanes l ON l.lane = t.lane"
    " JOIN environment_requests r USING (request)"
    " LEFT JOIN payloads a ON a.number = t.number AND a.part = 0 AND t.payload IS NULL"
    " LEFT JOIN payloads f ON f.number = t.number AND f.part = 2"
    " LEFT JOIN payloads o ON o.number = t.number AND o.part = 1"
    f" AND t.encoding = {int(Encoding.ERROR)}"
    " LEFT JOIN sessions s ON s.session = t.session LEFT JOIN workers w ON w.worker = s.worker"
    f" WHERE t.server = ? AND t.state IN {_LEARNED} AND t.usage IS NOT NULL AND t.n IN ({{keys}})"
)


class EndedAttempt(Struct, frozen=True):
    """The attempt that ended a task."""

    n: int
    """Place among the tasks that its server ended."""
    function: int
    spec: KindSpec
    is_success: bool
    used: Used
    error: bytes | None
    """As kept, of a failure."""
    payload: bytes | None
    """The arguments; None: too large."""
    size: int
    """Bytes of the arguments."""
    features: bytes | None
    """What the client said of them, as JSON."""
    worker: str | None
    """Id of the worker."""
    environment: str | None


@lru_cache(maxsize=256)
def read_spec(data: bytes) -> KindSpec:
    """Of many tasks few kinds: one is read once."""
    return msgspec.msgpack.decode(data, type=KindSpec)


async def last_places(rows: Rows) -> dict[int, int]:
    """Server -> place of the task that it ended last."""
    found = {}
    for (server,) in await rows.fetch("SELECT server FROM servers"):
        last = await first(
            rows,
            "SELECT n FROM tasks WHERE server = ? AND n IS NOT NULL ORDER BY n DESC LIMIT 1",
            server,
        )
        if last is not None:
            found[int(server)] = int(last[0])
    return found


async def places_of(
    rows: Rows, server: int, after: int, until: int, functions: Collection[int], limit: int
) -> list[int]:
    """Places beyond `after`, up to `until`, of ended tasks of these functions, ascending.

    Never more than `limit`: then there may be others behind the last one.
    """
    found = await fetch_in(
        rows,
        "SELECT t.n FROM tasks t JOIN kinds k USING (kind)"
        f" WHERE t.server = ? AND t.n > ? AND t.n <= ? AND t.state IN {_LEARNED}"
        f" AND k.function IN ({{keys}}) ORDER BY t.n LIMIT {int(limit)}",
        sorted(functions),
        server,
        after,
        until,
    )
    return sorted(place for (place,) in found)[:limit]


async def ended(rows: Rows, server: int, places: Sequence[int]) -> list[EndedAttempt]:
    """What can be learned from at these places of a server, in ascending order.

    Tasks whose retention is over, that were cancelled or never ran, are not among them.
    """
    found = await fetch_in(rows, _ENDED, sorted(places), server)
    return [
        EndedAttempt(
            n,
            function,
            read_spec(spec),
            state == State.SUCCEEDED,
            msgspec.msgpack.decode(usage, type=Used),
            error,
            payload,
            size or 0,
            features,
            worker,
            environment,
        )
        for (
            n,
            function,
            spec,
            state,
            usage,
            error,
            payload,
            size,
            features,
            worker,
            environment,
        ) in sorted(found, key=lambda row: row[0])
    ]
