"""`/v1/functions`: what is known of each, and how good its estimates were."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.errors import NotFound
from task_server.scheduling import accuracy as judging
from task_server.scheduling.statistics import Statistics
from task_server.server.http import Call, Reply, encode
from task_server.server.routing import USER, Route
from task_server.server.service import changes
from task_server.server.state import State
from task_server.store.kinds import FunctionKey
from task_server.store.records.totals import JudgedTotal


async def listed(state: State, call: Call) -> Reply:
    """Statistics of the functions that this caller can have called."""
    call.query()
    rows = [
        _shown(key, known)
        for key, known in state.store.functions()
        if _may_see(call, key[0]) and (known.calls or known.failures)
    ]
    return Reply(encode({"functions": rows, "next": None}))


async def get(state: State, call: Call) -> Reply:
    """All that is known of one function, by its number or its name."""
    call.query()
    key, known = _find(state, call)
    arguments = await changes.explained(state, key)
    environments = await changes.by_environment(state, known, arguments)
    told = {
        **_shown(key, known),
        "environments": environments,
        "drift": environments[-1].drift if environments else None,
        "scaling": arguments and arguments.scaling,
    }
    return Reply(encode(told))


async def accuracy(state: State, call: Call) -> Reply:
    """How far off the estimates were with which the function's tasks were leased."""
    call.query()
    key, known = _find(state, call)
    batches = await state.store.judged_totals(known.function)
    told = {
        **_named(key, known),
        "judged": sum(each.judged for each in known.accuracies),
        "guessed": sum(each.guessed for each in known.accuracies),
        "all": judging.overall(known.accuracies),
        "recent": judging.lately(known.accuracies),
        "batches": _judged(batches),
        "recent_batches": _judged(batches[: judging.RECENT]),
    }
    return Reply(encode(told))


def _judged(batches: Sequence[JudgedTotal]) -> judging.JudgedTotals:
    return judging.of_totals([(b.low, b.predicted, b.high, b.seconds) for b in batches])


def _find(state: State, call: Call) -> tuple[FunctionKey, Statistics]:
    wanted = call.params["function"]
    for key, known in state.store.functions():
        if wanted in (str(known.function), key[2]) and _may_see(call, key[0]):
            return key, known
    raise NotFound(f"no function {wanted[:100]!r} was called here")


def _may_see(call: Call, owner: int) -> bool:
    return call.caller.sees is None or owner in (0, call.caller.owner)


def _named(key: FunctionKey, known: Statistics) -> dict[str, object]:
    owner, distribution, name = key
    return {
        "id": known.function,
        "function": name,
        "package": distribution or None,
        "by_value": owner != 0,
    }


def _shown(key: FunctionKey, known: Statistics) -> dict[str, object]:
    price = known.price()
    calls = max(known.calls, 1)
    attempts = max(known.calls + known.failures, 1)
    return {
        **_named(key, known),
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
        "accuracy": judging.overall(known.accuracies),
    }


ROUTES = [
    Route("GET", "/v1/functions", listed, USER),
    Route("GET", "/v1/functions/{function:path}/accuracy", accuracy, USER),
    Route("GET", "/v1/functions/{function:path}", get, USER),
]
