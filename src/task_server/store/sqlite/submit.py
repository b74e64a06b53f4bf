"""T1 and T2: tasks come in, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import count, repeat

from task_server.errors import Conflict, Gone, NotFound
from task_server.scheduling.order import InBatch
from task_server.store.kinds import Kind
from task_server.store.places import BatchSoFar, Places, in_batch
from task_server.store.records import retention
from task_server.store.records.sql import finish_now
from task_server.store.sqlite import dependencies
from task_server.store.sqlite.blobs import check_submitted, keep_submitted
from task_server.store.sqlite.dependencies import Known
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.sqlite.memory import Queued
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.states import State
from task_server.store.submissions import Accepted, BatchSpec, NewTask, Submission

KEY_SECONDS = 7 * 86400.0
_NO_TIMES = (None, None, None)
BATCH_TAKEN = "the id of the batch is taken; make a new UUIDv7"


def submit(group: Group, submission: Submission) -> Accepted:
    """Store all tasks of a request, or find that they are there already."""
    known = _by_key(group, submission) or _by_batch(group, submission)
    if known is not None:
        return known
    there = _there_already(group, submission)
    if there and all(task.id in there for task in submission.tasks):
        return _again(group, submission, there)
    new = list({task.id: task for task in submission.tasks if task.id not in there}.values())
    _check_not_deleted(group, submission, new)
    awaited = dependencies.find(group, submission, new)
    check_submitted(group, submission, new)
    batch, so_far = _batch(group, submission)
    _store(group, submission, new, awaited, batch, so_far)
    batch_id = submission.into or (submission.batch.id if submission.batch else None)
    accepted = Accepted([task.id for task in submission.tasks], batch_id, duplicate=False)
    if submission.key is not None:
        _keep_key(group, submission, accepted)
    return accepted


def _by_key(group: Group, submission: Submission) -> Accepted | None:
    if submission.key is None:
        return None
    row = group.connection.execute(
        "SELECT digest, reply, batch FROM submit_keys WHERE owner = ? AND key = ?"
        # A key lives as long as its first task, and a week at least.
        " AND (until >= ? OR EXISTS"
        " (SELECT 1 FROM tasks WHERE id = substr(submit_keys.reply, 1, 16)))",
        (submission.owner, submission.key.text, group.now),
    ).fetchone()
    if row is None:
        return None
    digest, reply, batch = row
    if digest != submission.key.digest:
        raise Conflict(
            f"Idempotency-Key {submission.key.text!r} was used for another request; use a new key"
        )
    return Accepted([reply[i : i + 16] for i in range(0, len(reply), 16)], batch, duplicate=True)


def _keep_key(group: Group, submission: Submission, accepted: Accepted) -> None:
    assert submission.key is not None
    group.connection.execute(
        "INSERT OR REPLACE INTO submit_keys (owner, key, digest, reply, batch, until)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (
            submission.owner,
            submission.key.text,
            submission.key.digest,
            b"".join(accepted.ids),
            accepted.batch,
            group.now + KEY_SECONDS,
        ),
    )


def _by_batch(group: Group, submission: Submission) -> Accepted | None:
    """The same request once more, known by the batch that it made."""
    if submission.batch is None or submission.batch.digest is None:
        return None
    row = group.connection.execute(
        "SELECT batch, digest, owner FROM batches WHERE id = ?", (submission.batch.id,)
    ).fetchone()
    if row is None:
        return None
    if row[1:] != (submission.batch.digest, submission.owner):
        raise Conflict(BATCH_TAKEN)
    group.write_fresh()
    stored = group.connection.execute(
        "SELECT id FROM tasks WHERE batch = ? ORDER BY position", row[:1]
    ).fetchall()
    own = {task.id for task in submission.tasks if task.digest is not None}
    made = (task for (task,) in stored if task not in own)
    ids = [task.id if task.id in own else next(made, task.id) for task in submission.tasks]
    return Accepted(ids, submission.batch.id, duplicate=True)


def _digests(submission: Submission) -> dict[bytes, bytes]:
    """Ids made by the client, and the digests of their bodies. Raises Conflict if two differ."""
    digests: dict[bytes, bytes] = {}
    for task in submission.tasks:
        if task.digest is not None and digests.setdefault(task.id, task.digest) != task.digest:
            raise Conflict("two tasks have the same id; make a new UUIDv7 for each task")
    return digests


def _there_already(group: Group, submission: Submission) -> dict[bytes, int | None]:
    """Ids that exist already, with their batch. Raises Conflict for another owner or body."""
    digests = _digests(submission)
    if not digests:
        return {}
    there: dict[bytes, int | None] = {}
    rows = select_in(
        group.connection,
        "SELECT t.id, t.digest, k.owner, t.batch FROM tasks t JOIN kinds k USING (kind)"
        " WHERE t.id IN ({rows})",
        digests,
    )
    found: list[tuple[bytes, bytes | None, int, int | None]] = list(rows)
    for task in group.fresh_ids.keys() & digests.keys():
        fresh = group.fresh_ids[task]
        found.append((task, fresh.digest, fresh.kind.spec.owner, fresh.batch))
    for task, digest, owner, batch in found:
        if owner != submission.owner or digest != digests[task]:
            raise Conflict("the id of a task is taken by another; make a new UUIDv7 for each task")
        there[task] = batch
    return there


def _check_not_deleted(group: Group, submission: Submission, new: list[NewTask]) -> None:
    if not group.memory.has_tombstones:
        return
    own = [task.id for task in new if task.digest is not None]
    owners = finish_now(retention.deleted_owners(SqliteRows(group.connection), own)).values()
    if any(owner != submission.owner for owner in owners):
        raise Conflict("the id of a task is taken by another; make a new UUIDv7 for each task")
    if owners:
        raise Gone("a task of that id was deleted; make a new UUIDv7 for each task")


def _again(group: Group, submission: Submission, there: dict[bytes, int | None]) -> Accepted:
    numbers = [batch for batch in there.values() if batch is not None]
    batch = None
    if numbers:
        (batch,) = group.connection.execute(
            "SELECT id FROM batches WHERE batch = ?", (numbers[0],)
        ).fetchone()
    return Accepted([task.id for task in submission.tasks], batch, duplicate=True)


def _batch(group: Group, submission: Submission) -> tuple[int | None, BatchSoFar | None]:
    """The number of the batch, and what it is so far; it is made where that is asked for."""
    if submission.into is not None:
        row = group.connection.execute(
            "SELECT batch, is_open, in_order, expected, due_at, total FROM batches"
            " WHERE id = ? AND owner = ?",
            (submission.into, submission.owner),
        ).fetchone()
        if row is None:
            raise NotFound("no such batch; open one with POST /v1/batches")
        if not row[1]:
            raise Conflict("the batch is closed; open another with POST /v1/batches")
        return row[0], BatchSoFar(bool(row[2]), *row[3:])
    if submission.batch is None:
        return None, None
    spec = submission.batch
    return make_batch(group, submission.owner, spec), BatchSoFar(spec.in_order, spec.expected)


def make_batch(group: Group, owner: int, batch: BatchSpec) -> int:
    """Insert a batch. Raises Conflict when its id is taken."""
    taken = group.connection.execute("SELECT 1 FROM batches WHERE id = ?", (batch.id,)).fetchone()
    if taken:
        raise Conflict(BATCH_TAKEN)
    cursor = group.connection.execute(
        "INSERT INTO batches (id, digest, owner, name, is_open, expected, in_order, created_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            batch.id,
            batch.digest,
            owner,
            batch.name,
            int(batch.is_open),
            batch.expected,
            int(batch.in_order),
            group.now,
        ),
    )
    return int(cursor.lastrowid or 0)


def open_batch(group: Group, owner: int, batch: BatchSpec) -> Accepted:
    """Make an open batch, or find the equal one."""
    row = group.connection.execute(
        "SELECT digest, owner FROM batches WHERE id = ?", (batch.id,)
    ).fetchone()
    if row is None:
        make_batch(group, owner, batch)
        return Accepted([], batch.id, duplicate=False)
    if row != (batch.digest, owner):
        raise Conflict(BATCH_TAKEN)
    return Accepted([], batch.id, duplicate=True)


def close_batch(group: Group, owner: int | None, batch: bytes) -> bool:
    """No more tasks come."""
    cursor = group.connection.execute(
        "UPDATE batches SET is_open = 0 WHERE id = ? AND (owner = ? OR ?)",
        (batch, owner, owner is None),
    )
    return cursor.rowcount == 1


def _store(
    group: Group,
    submission: Submission,
    new: list[NewTask],
    awaited: Known,
    batch: int | None,
    so_far: BatchSoFar | None,
) -> None:
    kinds = [_kind(group, submission, index) for index in range(len(submission.specs))]
    shared = None if so_far is None else in_batch(submission, new, so_far, now=group.now)
    position = _positions(group, batch, len(new), shared)
    places = Places(
        submission, now=group.now, batch=shared, by_prediction=group.policy.by_prediction
    )
    queued = _queued(group, submission, new, kinds, batch, position, places)
    made = {task.id: task for task in queued}
    group.fresh_ids.update(made)
    timed = [(q, task) for q, task in zip(queued, new, strict=True) if _is_timed(task)]
    if timed:
        queued = [q for q, task in zip(queued, new, strict=True) if not _is_timed(task)]
    beyond = _offer(group, queued)
    counts = [0] * len(kinds)
    for task in new:
        counts[task.spec] += 1
    for kind, tasks in zip(kinds, counts, strict=True):
        if tasks:
            group.add_load(kind.number, tasks)
            group.stored[kind.number] += tasks
    _trim_windows(group, kinds, beyond)
    group.insert(beyond, State.QUEUED)
    _insert_timed(group, timed, dependencies.keep(group, new, made, awaited))
    keep_submitted(group, submission, new, made)
    group.insert_features(
        [(made[task.id].number, task.features) for task in new if task.features is not None]
    )


def _kind(group: Group, submission: Submission, index: int) -> Kind:
    kind = group.memory.kind(submission.specs[index])
    group.ask_for_lock(group.memory.requests[kind.spec.request])
    return kind


def _is_timed(task: NewTask) -> bool:
    """Whether it has extras: times of its own, or others that it waits for."""
    times = (task.run_after, task.start_by, task.finish_by)
    return times != _NO_TIMES or bool(task.after)


def _positions(group: Group, batch: int | None, count: int, shared: InBatch | None) -> int | None:
    if batch is None or shared is None:
        return None
    (total,) = group.connection.execute(
        "UPDATE batches SET total = total + ?, due_at = ? WHERE batch = ? RETURNING total - ?",
        (count, shared.due_at, batch, count),
    ).fetchall()[0]
    return int(total)


def _queued(
    group: Group,
    submission: Submission,
    new: list[NewTask],
    kinds: list[Kind],
    batch: int | None,
    position: int | None,
    places: Places,
) -> list[Queued]:
    memory, now = group.memory, group.now
    first = memory.next_number
    memory.next_number += len(new)
    statistics = [memory.functions_by_number[kind.function] for kind in kinds]
    prices = [(price.p50 if price.calls else -price.p50, price.p90) for price in submission.prices]
    positions: Iterable[int | None] = repeat(None) if position is None else count(position)
    # By position: a thousand tasks may come at once, and names cost as much again.
    return [
        Queued(
            number,
            *places.of(task),
            0,
            prices[task.spec][0],
            len(task.payload),
            statistics[task.spec],
            task.id,
            kinds[task.spec],
            batch,
            at,
            now,
            prices[task.spec][1],
            0,
            task.payload,
            task.digest,
            True,
        )
        for number, at, task in zip(count(first), positions, new, strict=False)
    ]


def _offer(group: Group, queued: list[Queued]) -> list[Queued]:
    """Into the windows of their lanes; gives those that lie beyond."""
    lanes: dict[int, list[Queued]] = defaultdict(list)
    for task in queued:
        lanes[task.kind.lane].append(task)
    beyond: list[Queued] = []
    for number, some in lanes.items():
        over = group.memory.lanes[number].window.offer_all(some)
        if over:
            numbers = {task.number for task in over}
            some = [task for task in some if task.number not in numbers]
        group.fresh += some
        beyond += over
    return beyond


def _trim_windows(group: Group, kinds: list[Kind], beyond: list[Queued]) -> None:
    for lane in {kind.lane for kind in kinds}:
        beyond += [task for task in group.memory.lanes[lane].window.trim() if task.is_fresh]
        group.memory.active.add(lane)


def _insert_timed(
    group: Group, timed: list[tuple[Queued, NewTask]], pending: Mapping[bytes, int]
) -> None:
    """Insert tasks that have a time of their own or wait for others, and what for."""
    if not timed:
        return
    late = [task.run_after is not None and task.run_after > group.now for _, task in timed]
    waiting = [
        is_late or pending[task.id] > 0 for (_, task), is_late in zip(timed, late, strict=True)
    ]
    for state, is_waiting in ((State.DELAYED, True), (State.QUEUED, False)):
        group.insert(
            [q for (q, _), w in zip(timed, waiting, strict=True) if w is is_waiting], state
        )
    write_many(
        group.connection,
        "INSERT INTO task_extras (number, run_after, start_by, finish_by, delayed_until, pending)"
        " VALUES {rows}",
        [
            (
                queued.number,
                task.run_after,
                task.start_by,
                task.finish_by,
                task.run_after if is_late and not pending[task.id] else None,
                pending[task.id],
            )
            for (queued, task), is_late in zip(timed, late, strict=True)
        ],
    )
    for (queued, _), waits in zip(timed, waiting, strict=True):
        if not waits:
            group.offer(queued)
