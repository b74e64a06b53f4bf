"""Leased tasks as workers get them: composed from bytes, arguments never parsed."""

from __future__ import annotations

import msgspec

from task_server.protocol import ids
from task_server.scheduling.requires import Requires, requires_of
from task_server.scheduling.timeouts import DEFAULT_SECONDS, RunLimit
from task_server.server.state import State
from task_server.store.attempts import Dealt
from task_server.store.kinds import AUTO, Kind

encode = msgspec.json.Encoder().encode


def as_json(state: State, tasks: list[Dealt]) -> bytes:
    """The array of assignments."""
    texts = ids.to_texts([dealt.id for dealt in tasks])
    told = [
        b'{"id":"%s","lease":"%x.%x.%s","attempt":%d,%s,%s}'
        % (
            text.encode(),
            dealt.number,
            dealt.attempt,
            dealt.secret.hex().encode(),
            dealt.attempt,
            _shared(state, dealt),
            dealt.payload,
        )
        for text, dealt in zip(texts, tasks, strict=True)
    ]
    return b"[" + b",".join(told) + b"]"


def _shared(state: State, dealt: Dealt) -> bytes:
    head = dealt.kind.head or _head(state, dealt.kind)
    return head if dealt.limit is None else b"%s,%s" % (_limit(dealt.limit), head)


def _limit(limit: RunLimit) -> bytes:
    """What tasks of a kind do not share: it is fixed with each lease."""
    return encode({"timeout_seconds": limit.seconds, "timeout_why": limit.why})[1:-1]


def _head(state: State, kind: Kind) -> bytes:
    """What all tasks of a kind share; kept with it."""
    spec = kind.spec
    environment = state.store.environment_of(spec.request)
    function: object = spec.function
    if spec.pickle is not None:
        function = {"pickle": spec.pickle, "name": spec.function}
    timeout = DEFAULT_SECONDS if spec.timeout is None else spec.timeout
    shared = {
        "owner": str(spec.owner),
        "function": function,
        "module": spec.module,
        "package": spec.distribution or None,
        "environment": environment,
        "timeout_seconds": timeout,
        "result_encoding": spec.result_encoding,
        "isolation": spec.isolation,
        "at_most_once": spec.at_most_once,
    }
    required = requires_of(spec.requires)
    if required is not None and required.takes:
        shared["limits"] = _limits(required)
    if spec.timeout == AUTO:
        del shared["timeout_seconds"]
    head = encode(shared)[1:-1]
    if environment is not None:
        kind.head = head
    return head


def _limits(required: Requires) -> dict[str, float]:
    """What a task requires it may use, and no more."""
    said = {
        "memory": required.memory,
        "cpu": required.cpu,
        "gpus": required.gpu,
        "reserved": required.reserved,
    }
    return {name: value for name, value in said.items() if value}
