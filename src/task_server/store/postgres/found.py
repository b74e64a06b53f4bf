"""What the database has already of the submissions of a group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from task_server.errors import Conflict, Gone
from task_server.store.places import BatchSoFar
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.states import State
from task_server.store.submissions import Accepted, Submission

BATCH_TAKEN = "the id of the batch is taken; make a new UUIDv7"
TASK_TAKEN = "the id of a task is taken by another; make a new UUIDv7 for each task"

_KEYS = """
SELECT k.owner, k.key, k.digest, k.reply, k.batch
  FROM unnest($1::int[], $2::text[]) AS w(owner, key)
 CROSS JOIN LATERAL (
   SELECT x.* FROM submit_keys x WHERE x.owner = w.owner AND x.key = w.key OFFSET 0) k
-- A key lives as long as its first task, and a week at least.
 WHERE k.until >= $3 OR EXISTS (SELECT FROM tasks WHERE id = substr(k.reply, 1, 16))"""
BATCHES = (
    "SELECT batch, id, digest, owner, is_open, in_order, expected, due_at, total FROM batches"
    " WHERE id = ANY($1::bytea[])"
)
_LOCK_BATCHES = f"{BATCHES} ORDER BY batch + 0 FOR UPDATE"
_THERE = """
SELECT w.id, t.digest, k.owner, b.id, d.owner
  FROM unnest($1::bytea[]) AS w(id)
  LEFT JOIN LATERAL (
    SELECT x.digest, x.kind, x.batch FROM tasks x WHERE x.id = w.id OFFSET 0) t ON true
  LEFT JOIN kinds k ON k.kind = t.kind
  LEFT JOIN LATERAL (SELECT x.id FROM batches x WHERE x.batch = t.batch OFFSET 0) b ON true
  LEFT JOIN LATERAL (SELECT x.owner FROM tombstones x WHERE x.id = w.id OFFSET 0) d ON true
 WHERE t.kind IS NOT NULL OR d.owner IS NOT NULL"""
# Locked: until the commit none of them can end without seeing who waits for it.
_AWAITED = """
SELECT t.id, k.owner, t.number, t.state
  FROM unnest($1::bytea[]) AS w(id)
  JOIN tasks t ON t.id = w.id JOIN kinds k ON k.kind = t.kind
 ORDER BY t.number + 0 FOR SHARE OF t"""


class Known(Struct, frozen=True):
    """A task that is there."""

    digest: bytes | None
    owner: int
    batch: bytes | None


class Awaited(Struct, frozen=True):
    """A task that is there to be waited for."""

    number: int
    state: State


class Batch(Struct):
    """A batch that is there."""

    number: int
    digest: bytes | None
    owner: int
    is_open: bool
    so_far: BatchSoFar

    def grow(self, count: int, due_at: float) -> None:
        """Another submission of the group adds to it."""
        total = self.so_far.total + count
        self.so_far = msgspec.structs.replace(self.so_far, total=total, due_at=due_at)


class Found(Struct):
    """What the database has of a group's submissions."""

    keys: dict[tuple[int, str], tuple[bytes, bytes, bytes | None]]
    """Owner and key -> digest, ids, batch."""
    batches: dict[bytes, Batch]
    tasks: dict[bytes, Known]
    deleted: dict[bytes, int]
    """Ids of deleted tasks -> their owners."""
    awaited: dict[tuple[int, bytes], Awaited]
    """Owner and id -> tasks that new ones wait for."""


async def look_up(group: Group, submissions: Sequence[Submission]) -> Found:
    """Look for all that these name."""
    keys = [(each.owner, each.key.text) for each in submissions if each.key is not None]
    batches = {each.batch.id for each in submissions if each.batch is not None}
    into = {each.into for each in submissions if each.into is not None}
    rows: list[Any] = await group.fetch(_KEYS, *columns(keys), group.now) if keys else []
    found = Found({(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}, {}, {}, {}, {})
    for sql, wanted in ((BATCHES, batches), (_LOCK_BATCHES, into)):
        for number, identifier, digest, owner, is_open, in_order, *rest in (
            await group.fetch(sql, list(wanted)) if wanted else []
        ):
            so_far = BatchSoFar(bool(in_order), *rest)
            found.batches[identifier] = Batch(number, digest, owner, bool(is_open), so_far)
    await _look_for_tasks(group, submissions, found)
    await _look_for_awaited(group, submissions, found)
    return found


async def _look_for_tasks(group: Group, submissions: Sequence[Submission], found: Found) -> None:
    ids = [
        task.id
        for each in submissions
        for task in each.tasks
        # Ids that the server made can be there only after a commit of unknown end.
        if task.digest is not None or group.is_unsure
    ]
    for identifier, digest, owner, batch, former_owner in (
        await group.fetch(_THERE, ids) if ids else []
    ):
        if owner is None:
            found.deleted[identifier] = former_owner
        else:
            found.tasks[identifier] = Known(digest, owner, batch)


async def _look_for_awaited(group: Group, submissions: Sequence[Submission], found: Found) -> None:
    named = {identifier for each in submissions for task in each.tasks for identifier in task.after}
    for identifier, owner, number, state in (
        await group.fetch(_AWAITED, list(named)) if named else []
    ):
        found.awaited[owner, identifier] = Awaited(number, State(state))


# ---- the same request once more


async def answered(group: Group, submission: Submission, found: Found) -> Accepted | None:
    """What the same request was answered; None when some of it is new. Raises Conflict."""
    return (
        _by_key(submission, found)
        or await _by_batch(group, submission, found)
        or _by_ids(submission, found)
    )


def _by_key(submission: Submission, found: Found) -> Accepted | None:
    if submission.key is None:
        return None
    row = found.keys.get((submission.owner, submission.key.text))
    if row is None:
        return None
    digest, reply, batch = row
    if digest != submission.key.digest:
        raise Conflict(
            f"Idempotency-Key {submission.key.text!r} was used for another request; use a new key"
        )
    ids = [reply[i : i + 16] for i in range(0, len(reply), 16)]
    return Accepted(ids, batch, duplicate=True)


async def _by_batch(group: Group, submission: Submission, found: Found) -> Accepted | None:
    """The same request once more, known by the batch that it made."""
    if submission.batch is None:
        return None
    known = found.batches.get(submission.batch.id)
    is_own = submission.batch.digest is not None or group.is_unsure
    if known is None or not is_own:
        return None
    if (known.digest, known.owner) != (submission.batch.digest, submission.owner):
        raise Conflict(BATCH_TAKEN)
    stored = await group.fetch(
        "SELECT id FROM tasks WHERE batch = $1 ORDER BY position", known.number
    )
    own = {task.id for task in submission.tasks if task.digest is not None}
    made = (task for (task,) in stored if task not in own)
    ids = [task.id if task.id in own else next(made, task.id) for task in submission.tasks]
    return Accepted(ids, submission.batch.id, duplicate=True)


def _by_ids(submission: Submission, found: Found) -> Accepted | None:
    _check_twins(submission)
    batch = None
    is_all_there = bool(submission.tasks)
    for task in submission.tasks:
        known = found.tasks.get(task.id)
        if known is None:
            is_all_there = False
        elif known.owner != submission.owner or known.digest != task.digest:
            raise Conflict(TASK_TAKEN)
        else:
            batch = batch or known.batch
    if not is_all_there:
        return None
    return Accepted([task.id for task in submission.tasks], batch, duplicate=True)


def _check_twins(submission: Submission) -> None:
    digests: dict[bytes, bytes] = {}
    for task in submission.tasks:
        if task.digest is not None and digests.setdefault(task.id, task.digest) != task.digest:
            raise Conflict("two tasks have the same id; make a new UUIDv7 for each task")


def check_not_deleted(submission: Submission, found: Found) -> None:
    """Raise Gone or Conflict for ids of tasks that were deleted."""
    if not found.deleted:
        return
    owners = {found.deleted[task.id] for task in submission.tasks if task.id in found.deleted}
    if owners - {submission.owner}:
        raise Conflict(TASK_TAKEN)
    if owners:
        raise Gone("a task of that id was deleted; make a new UUIDv7 for each task")
