"""What the estimator says of calls that a request names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from task_server.environments.lock import parse_lock
from task_server.server.estimator.messages import Arguments, Ask, Fleet, Known, Told
from task_server.server.service.requests import Body, Read
from task_server.server.state import State
from task_server.store.kinds import FunctionKey, KindSpec
from task_server.store.records.calls import OpenCall
from task_server.store.records.learning import ARGUMENTS_BYTES

T = TypeVar("T")

ASK_SECONDS = 2.0
"""Whoever asks has the table's estimate after that."""
CALL_SECONDS = 0.0002
"""More for each call."""
TIMES = (1, 2, 4)
"""Of the slots there are: an estimate tells what more would buy."""
SAMPLED_CALLS = 1000
"""Of more calls that are not listed, so many stand for all."""


async def tell(state: State, read: Body, *, lists_calls: bool, fleet: Fleet | None) -> Told | None:
    """Estimates of a body's tasks; None when the model cannot tell them better than the table.

    Of many tasks that are not listed some stand for all, evenly spread.
    """
    if not state.estimator.is_on:
        return None
    tasks = read.tasks if lists_calls else sampled(read.tasks, SAMPLED_CALLS)
    known = [await known_of(state, spec) for spec in read.specs]
    ask = Ask(
        known,
        [(task.spec, arguments_of(task)) for task in tasks],
        count=len(read.tasks),
        in_order=read.batch is not None and read.batch.order == "submit",
        fleet=fleet,
        times=[more for more in TIMES if more > 1],
    )
    return await ask_of(state, ask, read.specs)


async def ask_of(state: State, ask: Ask, specs: Sequence[KindSpec]) -> Told | None:
    """What it is told; `specs` are those of its functions.

    None while the estimator is away, knows nothing, or has not learned yet of what the table knows.
    """
    seconds = ASK_SECONDS + CALL_SECONDS * len(ask.calls)
    told = await state.estimator.ask(ask, seconds=seconds)
    if not isinstance(told, Told) or not told.functions:
        return None
    is_behind = any(
        not basis.calls and _has_run(state, spec)
        for basis, spec in zip(told.bases, specs, strict=True)
    )
    return None if is_behind else told


def sampled(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spread."""
    step = max(len(items) / most, 1.0)
    return [items[int(index * step)] for index in range(min(len(items), most))]


def _has_run(state: State, spec: KindSpec) -> bool:
    statistics = state.store.statistics(spec.function_key)
    return statistics is not None and statistics.calls > 0


# ---- a call as the estimator is told of it


async def known_of(state: State, spec: KindSpec) -> Known:
    """The function of a spec, with the versions that its calls would have now."""
    environment = spec.environment
    if environment is None and state.store.knows_request(spec.request):
        environment = state.store.environment_of(spec.request)
    statistics = state.store.statistics(spec.function_key)
    number = 0 if statistics is None else statistics.function
    return Known(number, name_of(spec.function_key), await versions_of(state, spec, environment))


def arguments_of(task: Read) -> Arguments:
    """A task's arguments."""
    is_small = task.large is None and task.size <= ARGUMENTS_BYTES
    return Arguments(task.payload if is_small else b"", task.size, task.features)


async def as_asked(
    state: State, calls: Sequence[OpenCall]
) -> tuple[list[Known], list[KindSpec], list[tuple[int, Arguments]]]:
    """Stored calls as the estimator is asked of them: functions, their specs, and calls."""
    places: dict[int, int] = {}
    known: list[Known] = []
    specs: list[KindSpec] = []
    for call in calls:
        if call.kind not in places:
            places[call.kind] = len(known)
            versions = await versions_of(state, call.spec, call.environment)
            known.append(Known(call.function, name_of(call.spec.function_key), versions))
            specs.append(call.spec)
    told = [
        (places[call.kind], Arguments(call.payload or b"", call.size, call.features))
        for call in calls
    ]
    return known, specs, told


def name_of(key: FunctionKey) -> str:
    """A function's name in the model: coarse to fine, with dots; nobody else's by value."""
    owner, distribution, name = key
    package = distribution or "-"
    return f"{f'@{owner} ' if owner else ''}{package}.{name.replace(':', '.')}"


async def versions_of(state: State, spec: KindSpec, environment: str | None) -> dict[str, str]:
    """What may change a function's run time: Python, its own package, its pickle."""
    versions = {"python": spec.python}
    if spec.pickle is not None:
        versions["pickle"] = spec.pickle.removeprefix("sha256:")[:16]
    if spec.distribution and environment is not None:
        found = (await read_versions(state, environment)).get(spec.distribution)
        if found is not None:
            versions[spec.distribution] = found
    return versions


async def read_versions(state: State, environment: str) -> dict[str, str]:
    """What is in an environment, by name; empty when it is not known."""
    if environment not in state.versions:
        found = await state.store.environment(environment)
        if found is None:
            return {}
        state.versions[environment] = parse_lock(found[1], python=found[0]).versions()
    return state.versions[environment]
