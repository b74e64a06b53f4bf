"""What is measured in every round, beside the reference."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct

from bench import many, reference
from bench.bed import Bed
from bench.figures import Figure
from bench.http import Connection
from bench.sizes import KIB, MIB, Size
from task_server import Client, Executor
from task_server.protocol.ids import new_ids, to_text

DEFAULTS = b'{"module":"math","function":"sqrt"}'
ONE = b'{"module":"math","function":"sqrt","args":[2]}'
IDLE_SECONDS = 60.0


class Done(Struct, frozen=True):
    """What a scenario came to."""

    tasks: int
    figures: list[Figure]


class Scenario(Struct, frozen=True):
    """Something to measure, and what of the reference is beside it."""

    measure: Callable[[Bed, Size], Done]
    reference: reference.Reference = reference.submit_all


def batches_of(tasks: int, share: int) -> Callable[[Bed, Size], Done]:
    """One request submits, one stream brings the answers; `share` times as many in a round."""

    def measure(bed: Bed, size: Size) -> Done:
        connection, count = bed.connect(), size.batches * share
        seconds = [run_batch(connection, tasks) for _ in range(count)]
        rate = tasks / statistics.median(seconds)
        return Done(tasks * count, [Figure(f"batch of {tasks}", rate, "tasks/s")])

    return measure


def single_submits(connections: int) -> Callable[[Bed, Size], Done]:
    """Each connection submits one task, and the next when it is told its id."""

    def measure(bed: Bed, size: Size) -> Done:
        rate = many.rate(bed, "/v1/tasks", ONE, connections=connections, requests=size.requests)
        _await_idle(bed)
        name = f"single submits, {connections} connections"
        return Done(size.requests, [Figure(name, rate, "tasks/s")])

    return measure


def submit_and_wait(bed: Bed, size: Size) -> Done:
    """64 connections, each waits for its answer before it submits the next."""
    rate = many.rate(bed, "/v1/tasks?wait=10", ONE, connections=64, requests=size.requests)
    return Done(size.requests, [Figure("submit and wait, 64 connections", rate, "tasks/s")])


def one_by_one(bed: Bed, size: Size) -> Done:
    """Submit, wait for the answer, and again, on one connection."""
    connection = bed.connect()
    seconds = [run_call(connection, ONE) for _ in range(size.calls)]
    ninety_ninth = statistics.quantiles(seconds, n=100)[98]
    figures = [
        Figure("one by one, p50", 1000 * statistics.median(seconds), "ms"),
        Figure("one by one, p99", 1000 * ninety_ninth, "ms", is_ratio=False),
    ]
    return Done(size.calls, figures)


def client_map(bed: Bed, size: Size) -> Done:
    """`list(client.map(...))` of the Python client."""
    with Client(bed.url, bed.token) as client:
        started = time.perf_counter()
        answers = list(client.map("math:sqrt", range(size.mapped)))
        rate = size.mapped / (time.perf_counter() - started)
    assert answers == [math.sqrt(n) for n in range(size.mapped)]
    return Done(size.mapped, [Figure(f"client.map over {size.mapped:,}", rate, "tasks/s")])


def executor_map(bed: Bed, size: Size) -> Done:
    """`list(executor.map(...))`, no chunksize given."""
    with Executor(url=bed.url, token=bed.token) as executor:
        started = time.perf_counter()
        answers = list(executor.map(math.sqrt, range(size.mapped)))
        rate = size.mapped / (time.perf_counter() - started)
    assert answers == [math.sqrt(n) for n in range(size.mapped)]
    return Done(size.mapped, [Figure(f"Executor.map over {size.mapped:,}", rate, "tasks/s")])


def executor_submit(bed: Bed, size: Size) -> Done:
    """A future each, as the reference has them."""
    with Executor(url=bed.url, token=bed.token) as executor:
        started = time.perf_counter()
        futures = [executor.submit(math.sqrt, n) for n in range(size.mapped)]
        answers = [future.result() for future in futures]
        rate = size.mapped / (time.perf_counter() - started)
    assert answers == [math.sqrt(n) for n in range(size.mapped)]
    return Done(size.mapped, [Figure(f"Executor.submit, {size.mapped:,}", rate, "tasks/s")])


def echoes_of(length: int, words: str) -> Callable[[Bed, Size], Done]:
    """Bytes there and back by the Python client; none twice, for what is stored once is cheap."""

    def measure(bed: Bed, size: Size) -> Done:
        seconds = []
        with Client(bed.url, bed.token) as client:
            for _ in range(size.echoes(length)):
                content = os.urandom(length)
                started = time.perf_counter()
                answer = client.call("copy:copy", content)
                seconds.append(time.perf_counter() - started)
                assert answer == content
        p50 = 1000 * statistics.median(seconds)
        return Done(len(seconds), [Figure(f"echo of {words}, p50", p50, "ms")])

    return measure


def _echo(length: int, words: str) -> Scenario:
    return Scenario(echoes_of(length, words), reference.echo(length))


SCENARIOS: dict[str, Scenario] = {
    "batch-1000": Scenario(batches_of(1000, 1)),
    "batch-100": Scenario(batches_of(100, 5)),
    "submits-16": Scenario(single_submits(16)),
    "submits-64": Scenario(single_submits(64)),
    "calls-64": Scenario(submit_and_wait),
    "map": Scenario(client_map),
    "executor-map": Scenario(executor_map),
    "executor-submit": Scenario(executor_submit),
    "one-by-one": Scenario(one_by_one, reference.one_by_one),
    "echo-1KiB": _echo(KIB, "1 KiB"),
    "echo-100KiB": _echo(100 * KIB, "100 KiB"),
    "echo-1MiB": _echo(MIB, "1 MiB"),
    "echo-64MiB": _echo(64 * MIB, "64 MiB"),
}
"""By the name that `--only` takes. Each is measured in each round."""


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
    assert answers == [math.sqrt(n) for n in range(tasks)]
    return took


def run_call(connection: Connection, body: bytes) -> float:
    """Seconds until the answer is there."""
    started = time.perf_counter()
    reply = connection.post("/v1/tasks?wait=60", body)
    took = time.perf_counter() - started
    view = msgspec.json.decode(reply)
    if view["state"] != "succeeded":
        raise RuntimeError(f"a call did not succeed: {view}")
    return took


def _await_idle(bed: Bed) -> None:
    connection = bed.connect()
    end = time.monotonic() + IDLE_SECONDS
    while msgspec.json.decode(connection.get("/user/estimate_time_left"))["time"]:
        if time.monotonic() > end:
            raise RuntimeError("what was submitted does not end")
        time.sleep(0.05)
