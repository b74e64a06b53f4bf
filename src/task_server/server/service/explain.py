"""Explain: why a task waits, where it runs, how it ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from task_server.protocol import ids
from task_server.protocol.explain import Before, Explanation, FleetView, Reason, Span
from task_server.protocol.tasks import Error, TaskView
from task_server.scheduling.explain import Held, Host, Need, Standing, standing
from task_server.scheduling.remaining import remaining
from task_server.scheduling.requires import NOTHING, requires_of
from task_server.server.service import estimate, wording
from task_server.server.service.views import task_view
from task_server.server.state import State
from task_server.store.kinds import AUTO, KindSpec
from task_server.store.records.standings import MOST, Place
from task_server.store.rows import TaskRow
from task_server.store.states import State as TaskState

SHORT_SECONDS = 1.0
TOLD_WITHIN = 2 / 3
"""Of a lease: workers list what they hold in the first exchange after each third of it."""


async def explain(state: State, row: TaskRow) -> Explanation:
    """Where a task is, and why."""
    view = task_view(state, row)
    if row.state.is_terminal:
        return _ended(view, row)
    if row.state is TaskState.RUNNING:
        return _running(state, view, row)
    is_one_line = state.settings.fair_share == "off"
    place = await state.store.place(row.number, among_all=is_one_line)
    if place is None:
        return _made(view, "it is gone", [])
    if row.state is TaskState.DELAYED:
        return _delayed(view, row, place, now=state.clock())
    if view.phase == "locking":
        return _locking(view)
    return await _waiting(state, view, row, place)


def _made(view: TaskView, summary: str, reasons: list[Reason]) -> Explanation:
    told = f"{view.phase or view.state}: {summary}"
    return Explanation(view.id, view.state, view.phase, told, reasons)


# ---- ended and running


def _ended(view: TaskView, row: TaskRow) -> Explanation:
    reasons = []
    if isinstance(error := view.error, Error):
        reasons = [Reason(error.kind, f"{error.type}: {error.message}".strip())]
    elif row.state is TaskState.EXPIRED:
        reasons = [Reason("start_by", "it had not started at the time that it had to")]
    elif row.state is TaskState.CANCELLED:
        reasons = [Reason("cancelled", "somebody cancelled it")]
    parts = [each.message for each in reasons]
    if view.run_seconds is not None:
        where = f" on {view.worker}" if view.worker else ""
        parts.append(f"ran {wording.time(view.run_seconds)}{where}, attempt {view.attempt}")
    if view.queue_seconds is not None:
        parts.append(f"started {wording.time(max(view.queue_seconds, 0.0))} after its submit")
    made = _made(view, "; ".join(parts) or "it never started", reasons)
    made.worker = view.worker
    return made


def _running(state: State, view: TaskView, row: TaskRow) -> Explanation:
    elapsed = max(state.clock() - (row.started_at or state.clock()), 0.0)
    left = _left(state, row.spec, elapsed)
    message = wording.held(
        view.worker or "a worker",
        view.phase,
        elapsed=elapsed,
        told_within=state.settings.lease_seconds * TOLD_WITHIN,
    )
    message += f", attempt {row.attempt}" if row.attempt > 1 else ""
    summary = f"{message}; expected to take another {wording.span(left.low, left.high)}"
    reasons = [Reason(view.phase or "running", message)]
    if view.phase == "leased":
        reasons += _ahead(state, row.spec)
    reasons += [*_limit(row), *_kept_free(row.spec)]
    made = _made(view, summary, reasons)
    made.worker, made.expected_seconds = view.worker, left
    return made


def _ahead(state: State, spec: KindSpec) -> list[Reason]:
    """Why a worker has it before there is a slot for it."""
    known = state.store.statistics(spec.function_key)
    if state.settings.lease_sizes == "one" or known is None or not known.is_short:
        return []
    return [Reason("ahead", wording.ahead())]


def _limit(row: TaskRow) -> list[Reason]:
    """How long it may run, where it leaves that to the server."""
    if row.limit_seconds is None or row.spec.timeout != AUTO:
        return []
    return [Reason("timeout", wording.limit(row.limit_seconds, row.limit_why or ""))]


def _kept_free(spec: KindSpec) -> list[Reason]:
    """What is kept free for it, though it states no memory."""
    requires = requires_of(spec.requires)
    if requires is None or not requires.reserved:
        return []
    return [Reason("memory", wording.kept_free(requires.reserved))]


def _left(state: State, spec: KindSpec, elapsed: float) -> Span:
    """Seconds until a call that runs so long is done; one that outlived its prediction too."""
    known = state.store.statistics(spec.function_key)
    price = estimate.price_of(state, spec)
    if elapsed <= price.p90 < SHORT_SECONDS:
        return Span(0.0, price.p90)  # thousands may lie on one worker
    low, _, high = remaining(price, known, elapsed)
    return Span(low, high)


# ---- waiting for something else than a worker


def _delayed(view: TaskView, row: TaskRow, place: Place, *, now: float) -> Explanation:
    if row.pending:
        names = ", ".join(ids.to_text(each) for each in place.after)
        message = f"waits until {wording.count_of(row.pending, 'other task')} succeeded: {names}"
        return _made(view, message, [Reason("after", message)])
    wait = max((place.delayed_until or now) - now, 0.0)
    at = datetime.fromtimestamp(now + wait, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if place.run_after is not None and place.delayed_until == place.run_after:
        reason = Reason("run_after", f"not to start before {at}")
    elif place.crashes and place.crashes >= place.errors:
        reason = Reason("lost", f"a worker or runner was lost; tried again at {at}")
    else:
        reason = Reason("retry", f"attempt {row.attempt} failed; tried again at {at}")
    made = _made(view, f"{reason.message}, in {wording.time(wait)}", [reason])
    made.expected_seconds = Span(wait, wait)
    return made


def _locking(view: TaskView) -> Explanation:
    if isinstance(view.waits_for, str):
        message = f"its environment could not be locked yet: {view.waits_for}"
        return _made(view, message, [Reason("lock_failed", message)])
    message = "the versions of its packages are being chosen"
    return _made(view, message, [Reason("lock", message)])


# ---- waiting for a worker


async def _waiting(state: State, view: TaskView, row: TaskRow, place: Place) -> Explanation:
    spec = row.spec
    need = Need(
        python=spec.python,
        is_plain=spec.plain,
        sandbox=spec.sandbox,
        requires=requires_of(spec.requires) or NOTHING,
    )
    hosts = await _hosts(state, row.environment)
    found = standing(need, hosts)
    reasons = [
        Reason(lack, wording.lacking(lack, number, need)) for lack, number in found.lacks.items()
    ]
    first = Before(place.before, await _owners_before(state, spec.owner))
    turn = _first(state, first)
    reasons += turn if found.fit else []
    reasons += _kept_free(spec)
    build = state.store.awaited_build(row.environment, now=state.clock())
    if build is not None:
        reasons.append(Reason("warm", wording.warm(build)))
    expected = _expected(state, spec, place, hosts, found)
    made = _made(view, _told(found, need, turn, expected), reasons)
    made.workers = FleetView(
        found.total,
        found.free,
        found.fit,
        {str(lack): number for lack, number in found.lacks.items()},
    )
    made.before = first
    made.expected_seconds = expected
    return made


async def _owners_before(state: State, owner: int) -> int:
    """Others with waiting tasks who had less of the workers, for the weight they have."""
    if state.settings.fair_share == "off":
        return 0
    charged = state.store.charged()
    waiting = {kind.spec.owner for kind, _ in await state.store.queued(None)} - {owner}
    mine = charged.get(owner, 0.0)
    return sum(other in charged and charged[other] < mine for other in waiting)


def _first(state: State, before: Before) -> list[Reason]:
    """What comes first."""
    found = []
    if before.tasks:
        number = f"{MOST:,} or more tasks" if before.tasks >= MOST else None
        tasks = number or wording.count_of(before.tasks, "task")
        whose = "" if state.settings.fair_share == "off" else " of the same owner"
        come = "comes" if before.tasks == 1 else "come"
        found.append(Reason("order", f"{tasks}{whose} {come} first"))
    if before.owners:
        owners = wording.count_of(before.owners, "other owner")
        found.append(Reason("share", f"{owners} had less of the workers lately"))
    return found


def _told(found: Standing, need: Need, first: Sequence[Reason], expected: Span | None) -> str:
    if not found.total:
        return "no worker is there; start one with `task-server worker`"
    workers = wording.count_of(found.total, "worker")
    if not found.fit:
        lacks = (wording.lacking(each, number, need) for each, number in found.lacks.items())
        return f"none of {workers} can run it: {'; '.join(lacks)}"
    if found.free:
        turn = first[0].message if first else "it is next"
        told = f"{found.free} of {workers} could have it now; {turn}"
    else:
        have = "has" if found.total == 1 else "have"
        told = f"0 of {workers} {have} {wording.wanted(found.lacks, need)}"
    if expected is None or expected.high <= 0:
        return told
    return f"{told}; next slot expected in {wording.span(expected.low, expected.high)}"


def _expected(
    state: State, spec: KindSpec, place: Place, hosts: Sequence[Host], found: Standing
) -> Span | None:
    """Seconds until it starts: once a worker has what it needs, and those before it are done."""
    if found.next_low is None or found.next_high is None:
        return None
    slots = sum(host.slots for host in hosts) * found.fit // max(found.total, 1)
    price = estimate.price_of(state, spec)
    pile = estimate.Pile(place.before, price, state.store.statistics(spec.function_key))
    queue = estimate.eta(estimate.sum_of([pile]), max(slots, 1), longest=0.0)
    if queue is None:
        return Span(found.next_low, found.next_high)
    return Span(found.next_low + queue.p10, found.next_high + queue.p90)


async def _hosts(state: State, environment: str | None) -> list[Host]:
    now = state.clock()
    held: dict[int, list[Held]] = defaultdict(list)
    for worker, spec, started_at in await state.store.held():
        left = _left(state, spec, max(now - started_at, 0.0))
        takes = requires_of(spec.requires)
        held[worker].append(Held(low=left.low, high=left.high, requires=takes))
    broken = set() if environment is None else await state.store.broken(environment, now=now)
    return [
        Host(
            slots=max(session.facts.slots, 1),
            refuses=state.refusals.why(
                session.id, has_room=len(held[session.worker]) < session.facts.slots
            ),
            pythons=session.facts.pythons,
            sandbox=session.facts.sandbox,
            free=session.facts.free(),
            is_broken=session.worker in broken,
            held=held[session.worker],
        )
        for session in await state.store.sessions()
    ]
