"""A session as the group that does its exchange has it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Struct

from task_server.store.attempts import Dealt
from task_server.store.postgres.finish import Told
from task_server.store.postgres.memory import Parking
from task_server.store.sessions import ExchangeRequest, WorkerFacts


class Session(Struct, eq=False):
    """A session's row, and the exchange that speaks for it."""

    session: int
    id: str
    worker: int
    worker_id: str
    token: int
    facts: WorkerFacts
    is_plain: bool
    number: int
    seen: int
    is_over: bool
    request: ExchangeRequest
    parking: Parking
    told: list[Told] = []
    stops: list[tuple[str, str]] = []
    tasks: list[Dealt] = []
    is_stale: bool = False
    """A newer exchange has its place."""


def read_session(row: Sequence[Any], request: ExchangeRequest, parking: Parking) -> Session:
    """From its row."""
    number, name, worker, worker_id, token, facts, is_plain, last, seen, is_over, stops = row
    return Session(
        number,
        name,
        worker,
        worker_id,
        token,
        facts_of(facts),
        bool(is_plain),
        last,
        seen,
        bool(is_over),
        request,
        parking,
        told=[Told(report, worker, number) for report in request.reports],
        stops=[(lease, why) for lease, why in stops or ()],
    )


@lru_cache(4096)
def facts_of(data: bytes) -> WorkerFacts:
    """What a worker said of itself when it joined."""
    return msgspec.msgpack.decode(data, type=WorkerFacts)
