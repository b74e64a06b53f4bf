"""T1 and T2: the tasks of all requests of a group come in, once."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.errors import Conflict, Invalid, NotFound, RequestError
from task_server.store import after
from task_server.store.group_commit import Operation
from task_server.store.places import BatchSoFar, Places, in_batch
from task_server.store.postgres.batches import make_batches
from task_server.store.postgres.blobs import check_submitted
from task_server.store.postgres.found import (
    BATCH_TAKEN,
    BATCHES,
    Batch,
    Found,
    answered,
    check_not_deleted,
    look_up,
)
from task_server.store.postgres.group import Group
from task_server.store.postgres.inserting import store
from task_server.store.postgres.plan import Plan
from task_server.store.submissions import Accepted, BatchSpec, NewTask, Submission

Wanted = tuple[Submission, Operation[Accepted]]


async def submit_all(group: Group) -> None:
    """Store all tasks of each request, or find that they are there already."""
    wanted = _apart(group, group.submissions)
    if not wanted:
        return
    found = await look_up(group, [submission for submission, _ in wanted])
    plans: list[Plan] = []
    for submission, operation in wanted:
        try:
            known = await answered(group, submission, found)
            if known is None:
                plans.append(await _plan(group, submission, operation, found))
            else:
                operation.settle(known)
        except RequestError as error:  # told before anything of it was written
            operation.fail(error)
    if plans:
        group.is_durable = True
        await store(group, plans)


def _apart(group: Group, wanted: Sequence[Wanted]) -> list[Wanted]:
    """Those that share no id or key with an earlier one; the others wait for the next group."""
    if len(wanted) == 1:
        return list(wanted)
    taken: set[object] = set()
    apart: list[Wanted] = []
    for submission, operation in wanted:
        names = _names(submission)
        awaited = {each for task in submission.tasks if task.after for each in task.after}
        if taken.isdisjoint(names) and taken.isdisjoint(awaited):
            apart.append((submission, operation))
        else:
            group.deferred.append(operation)
        taken |= names
    return apart


def _names(submission: Submission) -> set[object]:
    names: set[object] = {task.id for task in submission.tasks}
    if submission.batch is not None:
        names.add(submission.batch.id)
    if submission.key is not None:
        names.add((submission.owner, submission.key.text))
    return names


async def _plan(
    group: Group, submission: Submission, operation: Operation[Accepted], found: Found
) -> Plan:
    """What there is to store. Raises Conflict, Gone, NotFound, Invalid, Unavailable."""
    there = found.tasks
    new = {task.id: task for task in submission.tasks if task.id not in there}
    plan = _placed(group, submission, operation, list(new.values()), found)
    check_not_deleted(submission, found)
    for task in plan.new:
        for each in task.after:
            awaited = found.awaited.get((submission.owner, each))
            if awaited is not None:
                plan.awaited[each] = awaited
    after.check(submission, plan.new, plan.awaited.keys())
    await check_submitted(group, submission, plan.new)
    if plan.shared is not None and submission.into is not None:
        found.batches[submission.into].grow(len(plan.new), plan.shared.due_at)
    return plan


def _placed(
    group: Group,
    submission: Submission,
    operation: Operation[Accepted],
    new: list[NewTask],
    found: Found,
) -> Plan:
    """The new tasks, and where they stand. Raises Conflict, NotFound."""
    known, so_far, batch_id = None, None, None
    if submission.into is not None:
        batch_id, known = submission.into, _open_batch(submission.owner, submission.into, found)
        so_far = known.so_far
    elif submission.batch is not None:
        if submission.batch.id in found.batches:
            raise Conflict(BATCH_TAKEN)
        batch_id = submission.batch.id
        so_far = BatchSoFar(submission.batch.in_order, submission.batch.expected)
    shared = None if so_far is None else in_batch(submission, new, so_far, now=group.now)
    places = Places(
        submission, now=group.now, batch=shared, by_prediction=group.policy.by_prediction
    )
    number = None if known is None else known.number
    return Plan(submission, operation, new, batch_id, shared, places, number)


def _open_batch(owner: int, batch: bytes, found: Found) -> Batch:
    known = found.batches.get(batch)
    if known is None or known.owner != owner:
        raise NotFound("no such batch; open one with POST /v1/batches")
    if not known.is_open:
        raise Conflict("the batch is closed; open another with POST /v1/batches")
    return known


def check_texts(submission: Submission) -> None:
    """Raise Invalid for what the database cannot hold."""
    if submission.batch is not None:
        check_text(submission.batch.name or "", "name")
    if submission.key is not None:
        check_text(submission.key.text, "Idempotency-Key")


def check_text(text: str, field: str) -> None:
    """Raise Invalid for what PostgreSQL's text cannot hold."""
    if "\0" in text:
        raise Invalid(f"{field}: NUL is not a sign of text", field=field)


async def open_batch(group: Group, owner: int, batch: BatchSpec) -> Accepted:
    """Make an open batch, or find the equal one."""
    check_text(batch.name or "", "name")
    group.is_durable = True
    found = await group.fetch(BATCHES, [batch.id])
    if not found:
        await make_batches(group, [(owner, batch, 0, None)])
        return Accepted([], batch.id, duplicate=False)
    if (found[0][2], found[0][3]) != (batch.digest, owner):
        raise Conflict(BATCH_TAKEN)
    return Accepted([], batch.id, duplicate=True)
