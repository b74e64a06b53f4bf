"""`/v1/estimates`, `/v1/functions`."""

from __future__ import annotations

from task_server.errors import Invalid, NotFound
from task_server.scheduling.statistics import Statistics
from task_server.server.http import NDJSON, Call, Reply, check_json, encode
from task_server.server.routing import USER, Route
from task_server.server.service import estimate
from task_server.server.service.asking import asked
from task_server.server.service.submit import read_body
from task_server.server.state import State


async def post(state: State, call: Call) -> Reply:
    """What the tasks of a submit's body would cost; nothing is stored."""
    is_lines = check_json(call, NDJSON) == NDJSON
    query = call.query("calls")
    if query.get("calls", "all") != "all":
        raise Invalid("calls is `all` or absent", field="calls")
    body = await call.body(state.settings.body_bytes)
    read, _ = await read_body(state, call.caller, body, is_lines=is_lines)
    lists_calls = len(read.tasks) <= estimate.MAXIMUM_CALLS or "calls" in query
    return Reply(encode(await asked(state, read, lists_calls=lists_calls)))


async def functions(state: State, call: Call) -> Reply:
    """Statistics of the functions that this caller can have called."""
    call.query()
    rows = [
        _shown(*key, known)
        for key, known in state.store.functions()
        if _may_see(call, key[0]) and (known.calls or known.failures)
    ]
    return Reply(encode({"functions": rows, "next": None}))


async def function(state: State, call: Call) -> Reply:
    """Statistics of one function, by its number or its name."""
    call.query()
    wanted = call.params["function"]
    for (owner, distribution, name), known in state.store.functions():
        if wanted in (str(known.function), name) and _may_see(call, owner):
            return Reply(encode(_shown(owner, distribution, name, known)))
    raise NotFound(f"no function {wanted[:100]!r} was called here")


def _may_see(call: Call, owner: int) -> bool:
    return call.caller.sees is None or owner in (0, call.caller.owner)


def _shown(owner: int, distribution: str, name: str, known: Statistics) -> dict[str, object]:
    price = known.price()
    calls = max(known.calls, 1)
    attempts = max(known.calls + known.failures, 1)
    return {
        "id": known.function,
        "function": name,
        "package": distribution or None,
        "by_value": owner != 0,
        "calls": known.calls,
        "failures": known.failures,
        "run_seconds": {
            "mean": known.run_seconds / calls,
            "p10": price.p10,
            "p50": price.p50,
            "p90": price.p90,
            "p99": price.p99,
            "total": known.run_seconds,
        },
        "queue_seconds": known.queue_seconds / attempts,
        "install_seconds": known.install_seconds / attempts,
        "import_seconds": known.import_seconds / attempts,
        "cpu_seconds": known.cpu_seconds / attempts,
        "peak_bytes": known.peak_bytes,
    }


ROUTES = [
    Route("POST", "/v1/estimates", post, USER),
    Route("GET", "/v1/functions", functions, USER),
    Route("GET", "/v1/functions/{function:path}", function, USER),
]
