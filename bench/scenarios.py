"""What is measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from bench import many
from bench.bed import Bed
from bench.figures import Figure
from bench.http import Connection
from task_server import Client
from task_server.protocol.ids import new_ids, to_text

DEFAULTS = b'{"module":"math","function":"sqrt"}'
ONE = b'{"module":"math","function":"sqrt","args":[2]}'
VERSIONS = ("4.9.0", "4.10.0", "4.11.0", "4.12.0", "4.12.3")
"""Of humanize: each makes an environment of its own."""
FURTHER_CALLS = 50


class Size(Struct, frozen=True):
    """How much of everything a round does."""

    batches: int
    calls: int
    requests: int


QUICK = Size(batches=3, calls=100, requests=500)
FULL = Size(batches=7, calls=500, requests=3000)

Scenario = Callable[[Bed, Size], list[Figure]]


def batch_of_1000(bed: Bed, size: Size) -> list[Figure]:
    """One request submits, one stream brings the answers."""
    return [Figure("batch of 1000", _batches(bed, 1000, size.batches), "tasks/s", 1.2)]


def batch_of_100(bed: Bed, size: Size) -> list[Figure]:
    """The same with fewer."""
    return [Figure("batch of 100", _batches(bed, 100, 5 * size.batches), "tasks/s")]


def one_by_one(bed: Bed, size: Size) -> list[Figure]:
    """Submit, wait for the answer, and again, on one connection."""
    seconds = _calls(bed.connect(), ONE, size.calls)
    ninety_ninth = statistics.quantiles(seconds, n=100)[98]
    return [
        Figure("one by one, p50", 1000 * statistics.median(seconds), "ms", 12.0),
        Figure("one by one, p99", 1000 * ninety_ninth, "ms", is_ratio=False),
    ]


def on_many_connections(bed: Bed, size: Size) -> list[Figure]:
    """Single submits on 16 connections, and calls on 64 that wait for their answers."""
    submits = many.rate(
        bed.url, bed.token, "/v1/tasks", ONE, connections=16, requests=size.requests
    )
    _await_idle(bed)
    calls = many.rate(
        bed.url, bed.token, "/v1/tasks?wait=10", ONE, connections=64, requests=size.requests
    )
    return [
        Figure("submits on 16 connections", submits, "tasks/s"),
        Figure("calls on 64 connections", calls, "tasks/s"),
    ]


def python_map(bed: Bed, size: Size) -> list[Figure]:
    """`list(client.map(...))` over 1000."""
    rates = []
    with Client(bed.url, bed.token) as client:
        for _ in range(size.batches):
            started = time.perf_counter()
            answers = list(client.map("math:sqrt", range(1000)))
            rates.append(1000 / (time.perf_counter() - started))
            assert answers[:5] == [n**0.5 for n in range(5)] and len(answers) == 1000
    return [Figure("client.map over 1000", statistics.median(rates), "tasks/s")]


SCENARIOS: dict[str, Scenario] = {
    "batch-1000": batch_of_1000,
    "batch-100": batch_of_100,
    "one-by-one": one_by_one,
    "many": on_many_connections,
    "map": python_map,
}
"""By the name that `--only` takes. Each is measured in each round."""


def new_environments(bed: Bed) -> list[Figure]:
    """First calls of functions whose packages are in uv's cache, and those after. Once a bed."""
    connection = bed.connect()
    first = [_call_humanize(connection, version) for version in VERSIONS]
    body = _humanize(VERSIONS[-1])
    further = _calls(connection, body, FURTHER_CALLS)
    return [
        Figure("first call, new environment", 1000 * statistics.median(first), "ms", 1000.0, False),
        Figure("further calls there, p50", 1000 * statistics.median(further), "ms", 5.0, False),
    ]


def fill_cache(bed: Bed) -> None:
    """Let uv fetch what `new_environments` needs: into its cache, not into its environments."""
    connection = bed.connect()
    for version in VERSIONS:
        _call_humanize(connection, version)


def run_batch(connection: Connection, tasks: int) -> float:
    """Seconds from the first byte of a batch to its last answer, all of which are checked."""
    started = time.perf_counter()
    ids = new_ids(tasks)
    items = [b'{"id":"%s","args":[%d]}' % (to_text(each).encode(), n) for n, each in enumerate(ids)]
    body = b'{"defaults":%s,"tasks":[%s]}' % (DEFAULTS, b",".join(items))
    batch = msgspec.json.decode(connection.post("/v1/tasks", body))["batch"]
    lines = b"".join(connection.stream(f"/v1/batches/{batch}/answers"))
    took = time.perf_counter() - started
    answers = [msgspec.json.decode(line)["answer"] for line in lines.splitlines()]
    assert answers == [n**0.5 for n in range(tasks)]
    return took


def _batches(bed: Bed, tasks: int, batches: int) -> float:
    """Tasks a second: the median over some batches."""
    connection = bed.connect()
    return tasks / statistics.median(run_batch(connection, tasks) for _ in range(batches))


def _calls(connection: Connection, body: bytes, calls: int) -> list[float]:
    seconds: list[float] = []
    for _ in range(calls):
        started = time.perf_counter()
        reply = connection.post("/v1/tasks?wait=10", body)
        seconds.append(time.perf_counter() - started)
        _check(reply)
    return seconds


def _call_humanize(connection: Connection, version: str) -> float:
    started = time.perf_counter()
    reply = connection.post("/v1/tasks?wait=60", _humanize(version))
    took = time.perf_counter() - started
    _check(reply)
    return took


def _humanize(version: str) -> bytes:
    return (
        b'{"function":"humanize:intcomma","package":"humanize","version":"%s","args":[1234567]}'
        % (version.encode())
    )


def _check(reply: bytes) -> None:
    view = msgspec.json.decode(reply)
    if view["state"] != "succeeded":
        raise RuntimeError(f"a call did not succeed: {view}")


def _await_idle(bed: Bed) -> None:
    connection = bed.connect()
    end = time.monotonic() + 60
    while msgspec.json.decode(connection.get("/user/estimate_time_left"))["time"]:
        if time.monotonic() > end:
            raise RuntimeError("what was submitted does not end")
        time.sleep(0.05)


def names(only: Sequence[str]) -> list[str]:
    """The scenarios to run. Raises ValueError for one that is not there."""
    if unknown := set(only) - SCENARIOS.keys():
        raise ValueError(f"no scenario {sorted(unknown)}; there are {', '.join(SCENARIOS)}")
    return [name for name in SCENARIOS if name in only or not only]
