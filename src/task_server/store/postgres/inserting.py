"""Storing what was submitted: batches, keys, tasks, and what belongs to them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from task_server.store.kinds import Kind
from task_server.store.outcomes import in_row
from task_server.store.postgres.batches import give_positions
from task_server.store.postgres.blobs import keep_submitted
from task_server.store.postgres.dependencies import keep_waits
from task_server.store.postgres.group import Again, Group
from task_server.store.postgres.known import columns
from task_server.store.postgres.memory import FAILED, LOCKED, TO_LOCK, Fresh, Request
from task_server.store.postgres.plan import Plan
from task_server.store.states import State
from task_server.store.submissions import Accepted, IdempotencyKey, NewTask

KEY_SECONDS = 7 * 86400.0
_BEHIND = 2**62
"""All numbers lie before: what is not stored yet comes after what is."""
_QUEUED, _DELAYED = int(State.QUEUED), int(State.DELAYED)

_KEEP_KEYS = """
INSERT INTO submit_keys AS k (owner, key, digest, reply, batch, until)
SELECT * FROM unnest($1::int[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[], $6::float8[])
 ORDER BY 1, 2
ON CONFLICT (owner, key) DO UPDATE SET
  digest = excluded.digest, reply = excluded.reply, batch = excluded.batch, until = excluded.until
-- One that lives was made by another server meanwhile.
 WHERE k.until < $7 AND NOT EXISTS (SELECT FROM tasks WHERE id = substr(k.reply, 1, 16))"""
_COLUMNS = (
    "id, digest, kind, lane, batch, position, due_at, tie, predicted, predicted_high, payload"
)
_ARRAYS = (
    "$1::bytea[], $2::bytea[], $3::int[], $4::int[], $5::bigint[], $6::int[], $7::float8[],"
    " $8::float8[], $9::float8[], $10::float8[], $11::bytea[]"
)
_TASKS = f"""
INSERT INTO tasks ({_COLUMNS}, state, submitted_at, ready_at)
SELECT {_COLUMNS}, state, $13, $13
  FROM unnest({_ARRAYS}, $12::int[]) WITH ORDINALITY AS w({_COLUMNS}, state, place)
 ORDER BY w.place
RETURNING number"""
_RUNNING = f"""
INSERT INTO tasks ({_COLUMNS}, state, attempt, session, reply, secret, is_short,
                   submitted_at, ready_at, started_at)
SELECT {_COLUMNS}, 2, 1, session, reply, secret, is_short, $17, $17, $17
  FROM unnest({_ARRAYS}, $12::int[], $13::bigint[], $14::bigint[], $15::bytea[], $16::int[])
         WITH ORDINALITY AS w({_COLUMNS}, state, session, reply, secret, is_short, place)
 ORDER BY w.place
RETURNING number"""
_EXTRAS = """
INSERT INTO task_extras (number, run_after, start_by, finish_by, delayed_until, pending)
SELECT * FROM unnest($1::bigint[], $2::float8[], $3::float8[], $4::float8[], $5::float8[],
                     $6::int[])"""
_REQUESTS = """
SELECT request, text, python, environment, state FROM environment_requests
 WHERE request = ANY($1::int[]) ORDER BY request FOR UPDATE"""
_LOCK_AGAIN = """
UPDATE environment_requests SET state = 0, tries = 0, try_at = 0, error = NULL
 WHERE request = ANY($1::int[])"""


async def store(group: Group, plans: Sequence[Plan]) -> None:
    """Store what was planned, and settle who wants it."""
    for plan in plans:
        plan.kinds = [group.memory.kinds_by_spec[spec] for spec in plan.submission.specs]
        plan.pending = Counter({task.id: _pending(plan, task) for task in plan.new if task.after})
    await ask_for_locks(group, (kind for plan in plans for kind in plan.kinds))
    await _keep_keys(group, plans)
    await give_positions(group, plans)
    for plan in plans:
        _count(group, plan)
        ids = [task.id for task in plan.submission.tasks]
        plan.operation.settle(Accepted(ids, plan.batch_id, duplicate=False))
    if _may_be_dealt_at_once(group, plans):
        numbers = itertools.count(_BEHIND)
        group.fresh = [each for plan in plans for each in _fresh(group, plan, numbers)]
    else:
        await _insert(group, plans)


def _count(group: Group, plan: Plan) -> None:
    for spec, count in Counter(task.spec for task in plan.new).items():
        kind = plan.kinds[spec]
        group.load[kind.number] += count
        group.stored[kind.number] += count
    if plan.new:
        least = min(plan.places.of(task)[0] for task in plan.new)
        for kind in plan.kinds:
            group.queue(kind.lane, least)


def _may_be_dealt_at_once(group: Group, plans: Sequence[Plan]) -> bool:
    """Whether somebody may take tasks before anything else of this group has to find them."""
    has_takers = (
        bool(group.leases)
        or any(waiter.want > 0 for waiter in group.memory.parked.values())
        or any(request.want > 0 for request, _ in group.exchanges)
    )
    is_plain = not any(
        plan.pending
        or plan.submission.stored
        or any(task.run_after is not None or task.blobs or task.features for task in plan.new)
        for plan in plans
    )
    return has_takers and is_plain and not group.cancels


def _pending(plan: Plan, task: NewTask) -> int:
    there = (plan.awaited.get(each) for each in dict.fromkeys(task.after))
    return sum(each is None or each.state is not State.SUCCEEDED for each in there)


async def ask_for_locks(group: Group, kinds: Iterable[Kind]) -> None:
    """Have the environments locked that tasks of these kinds wait for, if they are not yet."""
    memory = group.memory
    requests = {memory.requests[kind.spec.request] for kind in kinds}
    numbers = [request.number for request in requests if request.state != LOCKED]
    if not numbers:
        return
    # Until the commit no lock can fail for good: that would leave the new tasks behind.
    found = [Request(*row) for row in await group.fetch(_REQUESTS, numbers)]
    failed = [request.number for request in found if request.state == FAILED]
    if failed:  # the index may have it by now
        await group.execute(_LOCK_AGAIN, failed)
    for request in found:
        if request.state == FAILED:
            request = msgspec.structs.replace(request, state=TO_LOCK)
        group.requests.append(request)
        group.has_new_requests |= request.state == TO_LOCK


async def _keep_keys(group: Group, plans: Sequence[Plan]) -> None:
    rows = [
        _key_row(group, plan, plan.submission.key)
        for plan in plans
        if plan.submission.key is not None
    ]
    if rows and await group.execute(_KEEP_KEYS, *columns(rows), group.now) != len(rows):
        raise Again("a key was used at another server meanwhile")


def _key_row(group: Group, plan: Plan, key: IdempotencyKey) -> tuple[object, ...]:
    reply = b"".join(task.id for task in plan.submission.tasks)
    until = group.now + KEY_SECONDS
    return (plan.submission.owner, key.text, key.digest, reply, plan.batch_id, until)


# ---- tasks


def _fresh(group: Group, plan: Plan, numbers: Iterator[int]) -> Iterator[Fresh]:
    for task, row in zip(plan.new, _rows(group, plan), strict=True):
        kind = plan.kinds[task.spec]
        yield Fresh(
            number=next(numbers),
            due_at=plan.places.of(task)[0],
            tie=plan.places.of(task)[1],
            crashes=0,
            predicted=_predicted(plan, task),
            size=len(task.payload),
            statistics=group.memory.statistics_of(kind),
            kind=kind,
            attempt=0,
            task=task,
            row=row,
        )


async def insert_fresh(group: Group) -> None:
    """Store what nobody took, and what somebody did; each gets its number."""
    leased = [each for each in group.fresh if each.lease is not None]
    queued = [each for each in group.fresh if each.lease is None]
    if leased:
        rows = [(*each.row, *(each.lease or ())) for each in leased]
        await _number(group, leased, _RUNNING, rows)
    if queued:
        await _number(group, queued, _TASKS, [each.row for each in queued])
    group.fresh = []
    extras = [
        (each.number, None, each.task.start_by, each.task.finish_by, None, 0)
        for each in (*leased, *queued)
        if each.task.start_by is not None or each.task.finish_by is not None
    ]
    if extras:
        await group.execute(_EXTRAS, *columns(extras))


async def _number(
    group: Group, fresh: Sequence[Fresh], sql: str, rows: Sequence[tuple[object, ...]]
) -> None:
    found = await group.fetch(sql, *columns(rows), group.now)
    for each, (number,) in zip(fresh, found, strict=True):
        each.number = number
    await group.write_payloads(0, ((each.number, each.task.payload) for each in fresh))


async def _insert(group: Group, plans: Sequence[Plan]) -> None:
    tasks = [(plan, task) for plan in plans for task in plan.new]
    rows = [row for plan in plans for row in _rows(group, plan)]
    if not rows:
        return
    found = await group.fetch(_TASKS, *columns(rows), group.now)
    numbers = [number for (number,) in found]
    payloads = (task.payload for _, task in tasks)
    await group.write_payloads(0, zip(numbers, payloads, strict=True))
    extras = [
        _extras_row(group, plan, task, number)
        for (plan, task), number in zip(tasks, numbers, strict=True)
        if (task.run_after, task.start_by, task.finish_by) != (None, None, None)
        or plan.pending[task.id]
    ]
    if extras:
        await group.execute(_EXTRAS, *columns(extras))
    by_id = {task.id: number for (_, task), number in zip(tasks, numbers, strict=True)}
    await group.write_features(
        [(by_id[task.id], task.features) for _, task in tasks if task.features is not None]
    )
    for plan in plans:
        if plan.pending:
            await keep_waits(group, plan.new, plan.awaited, by_id)
        await keep_submitted(group, plan.submission, plan.new, by_id)


def _rows(group: Group, plan: Plan) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for position, task in enumerate(plan.new, plan.position):
        kind = plan.kinds[task.spec]
        waits = _is_early(group, task) or plan.pending[task.id] > 0
        rows.append(
            (
                task.id,
                task.digest,
                kind.number,
                kind.lane,
                plan.batch,
                None if plan.batch is None else position,
                *plan.places.of(task),
                _predicted(plan, task),
                plan.submission.prices[task.spec].p90,
                in_row(task.payload),
                _DELAYED if waits else _QUEUED,
            )
        )
    return rows


def _predicted(plan: Plan, task: NewTask) -> float:
    price = plan.submission.prices[task.spec]
    return price.p50 if price.calls else -price.p50


def _is_early(group: Group, task: NewTask) -> bool:
    return task.run_after is not None and task.run_after > group.now


def _extras_row(group: Group, plan: Plan, task: NewTask, number: int) -> tuple[object, ...]:
    pending = plan.pending[task.id]
    until = task.run_after if _is_early(group, task) and not pending else None
    return (number, task.run_after, task.start_by, task.finish_by, until, pending)
