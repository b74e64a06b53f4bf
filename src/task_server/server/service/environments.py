"""Ask for environments ahead of their tasks, and see how far workers are with them."""

from __future__ import annotations

import keyword
from collections.abc import Mapping, Sequence
from datetime import datetime

from msgspec import Struct

from task_server.environments.lock import empty_lock
from task_server.environments.requirements import EnvironmentRequest
from task_server.errors import Invalid, NotFound
from task_server.protocol.tasks import Task
from task_server.server.service.estimate import live_sessions
from task_server.server.service.installs import read_installs
from task_server.server.service.model import read_versions
from task_server.server.service.orders import concerns
from task_server.server.service.pythons import check_python_is_somewhere
from task_server.server.service.views import moment
from task_server.server.state import State
from task_server.store.records.orders import EnvironmentRow, OrderReport, OrderRow, OrderSpec
from task_server.store.sessions import LiveSession

DAY = 86400.0
KEEP_SECONDS = 30 * DAY
LONGEST_KEEP = 10 * 365 * DAY
MAXIMUM_ORDERS = 1000
MAXIMUM_LABELS = 32
MAXIMUM_MODULES = 100
MAXIMUM_TEXT = 200
COLLECT_SECONDS = 60.0
"""How long workers are asked to remove what is unused."""

_ENDED = ("ready", "failed")


class Wanted(Struct, forbid_unknown_fields=True, kw_only=True):
    """The body of a POST."""

    package: str | list[str] | None = None
    version: str | None = None
    python: str | None = None
    environment: str | None = None
    """Digest of a lock, in the place of packages."""
    modules: list[str] = []
    """To import; without them the module of each package."""
    labels: dict[str, str] = {}
    """Of the workers that are meant; empty: all."""
    keep: float = KEEP_SECONDS
    """Seconds for which it is wanted: so long it stays on the workers, and new ones build it."""


class WorkerProgress(Struct, omit_defaults=True):
    """How far one worker is."""

    id: str
    name: str
    state: str
    """waiting, building, importing, ready, failed; of what nobody ordered as the worker says."""
    log: str = ""
    ordered: bool = False
    """It is to have it."""


class Progress(Struct, kw_only=True):
    """How far an order is."""

    environment: str | None
    """None until it is locked."""
    state: str
    """locking, preparing, ready, failed."""
    error: str | None
    """Why it could not be locked."""
    waits_for: str | None
    """Why it is not locked yet."""
    python: str
    requirements: list[str]
    modules: list[str]
    labels: dict[str, str]
    wanted_until: datetime | None
    workers: list[WorkerProgress]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return self.state in _ENDED


async def want(state: State, asked: Wanted, *, owner: int) -> str:
    """Order what tasks of an owner get; gives the text of its request.

    Raises Invalid, NotAllowed, NotFound.
    """
    _check(asked)
    request, environment = await _request(state, asked, owner)
    await check_python_is_somewhere(state, request.python)
    now = state.clock()
    if len(await state.store.orders(now)) >= MAXIMUM_ORDERS:
        raise Invalid(f"{MAXIMUM_ORDERS} environments are wanted already; take some back first")
    text = f"lock {environment}" if asked.environment else request.text
    if environment is not None and not asked.environment:
        await state.store.keep_empty_lock(request.python, now=now)
    spec = OrderSpec(
        request=text,
        labels=asked.labels,
        modules=tuple(dict.fromkeys(asked.modules)),
        until=now + asked.keep,
    )
    await state.store.order(spec, now=now)
    await state.store.ask_for_lock(text, python=request.python, environment=environment)
    await state.orders.look(now)
    return text


async def _request(
    state: State, asked: Wanted, owner: int
) -> tuple[EnvironmentRequest, str | None]:
    """What is to be locked, and the digest of its lock if that is known."""
    if asked.environment is not None:
        if asked.package or asked.version or asked.python:
            raise Invalid("give either environment or package", field="environment")
        found = await state.store.environment(asked.environment)
        if found is None:
            raise NotFound("there is no environment of that digest")
        return EnvironmentRequest((), found[0]), asked.environment
    installs = read_installs(
        Task(package=asked.package, version=asked.version, python=asked.python),
        default_python=state.default_python,
        uploads=await state.uploads.of(owner),
        policy=state.policy,
    )
    request = installs.requested.environment
    return request, None if request.requirements else empty_lock(request.python).digest


def _check(asked: Wanted) -> None:
    if len(asked.modules) > MAXIMUM_MODULES or not all(map(_is_module, asked.modules)):
        message = f"modules are up to {MAXIMUM_MODULES} names as in `import a.b`"
        raise Invalid(message, field="modules")
    texts = [*asked.labels, *asked.labels.values()]
    are_short = all(len(text) <= MAXIMUM_TEXT and "\0" not in text for text in texts)
    if len(asked.labels) > MAXIMUM_LABELS or not are_short:
        message = f"labels are up to {MAXIMUM_LABELS} names with values of {MAXIMUM_TEXT} letters"
        raise Invalid(message, field="labels")
    if not 0 < asked.keep <= LONGEST_KEEP:
        raise Invalid(f"keep is seconds, up to {LONGEST_KEEP:.0f}", field="keep")


def _is_module(name: str) -> bool:
    parts = name.split(".")
    are_names = all(part.isidentifier() and not keyword.iskeyword(part) for part in parts)
    return are_names and len(name) <= MAXIMUM_TEXT


# ---- seeing


async def progress_of(state: State, request: str, labels: Mapping[str, str]) -> Progress:
    """How far the order of a request is. Raises NotFound when it was taken back meanwhile."""
    rows = await state.store.orders(state.clock())
    row = next((each for each in rows if (each.request, each.labels) == (request, labels)), None)
    if row is None:
        raise NotFound("the environment is not wanted any longer")
    reports = await state.store.order_reports([row.number])
    told = _by_worker(row, reports)
    workers = [_worker(each, told) for each in await live_sessions(state) if concerns(row, each)]
    return Progress(
        environment=row.environment,
        state=_state(row, workers),
        error=row.error,
        waits_for=row.waits_for,
        python=row.python,
        requirements=await requirements_in(state, row.request),
        modules=list(row.modules),
        labels=row.labels,
        wanted_until=moment(row.until),
        workers=workers,
    )


async def requirements_in(state: State, request: str) -> list[str]:
    """The requirements of an environment request; of a lock, all that it pins."""
    if request.startswith("lock "):
        versions = await read_versions(state, request.removeprefix("lock "))
        return [f"{name}=={version}" for name, version in versions.items()]
    return list(EnvironmentRequest.from_text(request).requirements) if request else []


async def asked_as(state: State, row: EnvironmentRow) -> list[list[str]]:
    """What an environment was asked for as; by its lock, if in no other way."""
    texts = [each for each in row.requests if not each.startswith("lock ")]
    return [await requirements_in(state, text) for text in texts or [f"lock {row.digest}"]]


def _state(row: OrderRow, workers: Sequence[WorkerProgress]) -> str:
    if row.error is not None:
        return "failed"
    if row.request and row.environment is None:
        return "locking"
    states = {worker.state for worker in workers}
    if not workers or not states <= set(_ENDED):
        return "preparing"
    return "failed" if "failed" in states else "ready"


def _worker(session: LiveSession, reports: Mapping[str, OrderReport]) -> WorkerProgress:
    report = reports.get(session.id)
    if report is None:
        return WorkerProgress(session.id, session.facts.name, "waiting", ordered=True)
    return WorkerProgress(session.id, session.facts.name, report.state, report.log, ordered=True)


def _by_worker(row: OrderRow, reports: Sequence[tuple[str, OrderReport]]) -> dict[str, OrderReport]:
    """What was told of the present round of one order."""
    return {
        worker: report
        for worker, report in reports
        if (report.number, report.round) == (row.number, row.round)
    }


async def workers_with(state: State, digest: str) -> tuple[list[OrderRow], list[WorkerProgress]]:
    """The orders of an environment, and each worker that is to have it or has it.

    Of several orders that mean a worker, the one that was asked for last is told.
    """
    rows = [row for row in await state.store.orders(state.clock()) if row.environment == digest]
    reports = await state.store.order_reports([row.number for row in rows])
    found = []
    rows.sort(key=lambda row: row.asked_at)
    for session in await live_sessions(state):
        row = next((each for each in reversed(rows) if concerns(each, session)), None)
        if row is not None:
            found.append(_worker(session, _by_worker(row, reports)))
        elif (told := session.environments.get(digest, "removed")) != "removed":
            found.append(WorkerProgress(session.id, session.facts.name, told))
    return rows, found


# ---- removing


async def collect(state: State, environments: Sequence[str]) -> None:
    """Ask all workers to remove what is unused; these environments are wanted no longer."""
    now = state.clock()
    if environments:
        await state.store.take_back(environments)
    await state.store.order(OrderSpec(request="", until=now + COLLECT_SECONDS), now=now)
    await state.orders.look(now)
