"""T6 to T10: what workers report, decided and written for all exchanges of a group together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from task_server.scheduling.placement import INSTALL_SECONDS, LONG_SECONDS
from task_server.scheduling.statistics import Run
from task_server.store import transitions
from task_server.store.attempts import DONE, AttemptReport, Decided, LeaseKey, Used
from task_server.store.outcomes import (
    digest_of,
    in_row,
    plausible,
    ran_out_of_memory,
    roomier,
    run_of,
)
from task_server.store.postgres.blobs import keep_reported, lacks_blob, missing_blobs
from task_server.store.postgres.change import (
    Changes,
    FullRow,
    by_number,
    lock_ids,
    lock_numbers,
    read_locked,
)
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns, know_kinds
from task_server.store.rows import Ended
from task_server.store.states import State
from task_server.store.transitions import Change, Issued

_SUCCEED = """
UPDATE tasks t SET state = 3, outcome = w.outcome, encoding = w.encoding, usage = w.usage,
       server = $9, n = w.n, ended_at = greatest($10, t.started_at)
  FROM unnest($1::bigint[], $2::int[], $3::bytea[], $4::bigint[], $5::bytea[], $6::int[],
              $7::bytea[], $8::bigint[])
    AS w(number, attempt, secret, session, outcome, encoding, usage, n)
-- The lease must still be the one that was given: a task that moved on keeps its new state.
 WHERE t.number = w.number AND t.state + 0 = 2 AND t.attempt = w.attempt AND t.secret = w.secret
   AND t.session = w.session
RETURNING t.number, t.id, t.kind, t.batch, t.position, t.submitted_at, t.started_at, t.predicted,
          t.predicted_high, t.n"""
_ISSUED = """
SELECT p.task, p.worker, p.generation, p.lease, p.attempt, p.outcome_ok, p.outcome_digest
  FROM unnest($1::bigint[], $2::int[]) AS w(task, worker)
 CROSS JOIN LATERAL (
   SELECT x.* FROM past_attempts x WHERE x.task = w.task AND x.worker = w.worker OFFSET 0) p
 ORDER BY p.task, p.attempt"""


NOTHING = Used()


class Told(Struct, eq=False):
    """A report, who tells it, and what became of it."""

    report: AttemptReport
    worker: int
    session: int
    decided: Decided | None = None


class Attempt(Struct):
    """A reported attempt as the store knows it."""

    row: FullRow | None
    lease: LeaseKey | None = None
    """None: never issued to this worker in this generation."""
    issued: Issued | None = None
    any_issued: bool = False


async def decide_all(group: Group, told: Sequence[Told]) -> None:
    """Decide each report; of several for one lease the first that ends its task counts."""
    if not told:
        return
    group.is_durable = True
    for each in told:
        if each.report.used is not None:
            each.report.used = plausible(each.report.used)
    ending = [each for each in told if each.report.outcome in ("succeeded", "failed")]
    group.missing_blobs = await missing_blobs(group, (each.report for each in ending))
    plain = [each for each in _one_a_task(ending) if _is_plain_success(group, each)]
    if len(plain) < len(told) or group.named:
        # Whatever is decided one by one comes under the same locks, in the same order.
        await _lock_all(group, told)
    await _succeed(group, plain)
    while waiting := [each for each in told if each.decided is None]:
        await _decide_some(group, _one_a_task(waiting))


def _one_a_task(told: Iterable[Told]) -> list[Told]:
    """The first report of each task."""
    first: dict[object, Told] = {}
    for each in told:
        lease = each.report.lease
        first.setdefault(each.report.task if lease is None else lease.number, each)
    return list(first.values())


def _is_plain_success(group: Group, told: Told) -> bool:
    report = told.report
    is_there = not lacks_blob(report, group.missing_blobs)
    return report.lease is not None and report.outcome == "succeeded" and is_there


async def _lock_all(group: Group, told: Sequence[Told]) -> None:
    numbers = {each.report.lease.number for each in told if each.report.lease is not None}
    await lock_numbers(group, numbers.union(*group.named.values()))


# ---- answers of those who hold their tasks


async def _succeed(group: Group, told: Sequence[Told]) -> None:
    """End the tasks whose holder answers; what its holder no longer holds is left undecided."""
    if not told:
        return
    first_n = group.places(len(told))
    placed = sorted(
        zip(told, range(first_n, group.next_n), strict=True), key=lambda each: _number(each[0])
    )
    rows = [_success_row(each, n) for each, n in placed]
    found = await group.fetch(_SUCCEED, *columns(rows), group.memory.server, group.now)
    await know_kinds(group.connection, group.memory, {row[2] for row in found})
    by_task = {_number(each): each for each in told}
    ended = [(by_task[row[0]], row) for row in sorted(found, key=lambda row: int(row[9]))]
    _count_successes(group, ended)
    _note_workers(group, ended)
    group.ended += [_ended(group, each, row) for each, row in ended]
    for each, row in ended:
        group.note_free(row[2], each.session)
    reports = [(_number(each), each.report) for each, _ in ended]
    await keep_reported(group, reports)
    await group.write_payloads(1, [(number, report.answer) for number, report in reports])
    await group.write_logs(
        [(n, r.lease.attempt, r.log) for n, r in reports if r.lease is not None and r.log]
    )


def _number(told: Told) -> int:
    assert told.report.lease is not None
    return told.report.lease.number


def _success_row(told: Told, n: int) -> tuple[object, ...]:
    report, lease = told.report, told.report.lease
    assert lease is not None
    return (
        lease.number,
        lease.attempt,
        lease.secret,
        told.session,
        in_row(report.answer),
        int(report.encoding),
        msgspec.msgpack.encode(report.used) if report.used else None,
        n,
    )


def _count_successes(group: Group, ended: Sequence[tuple[Told, Sequence[Any]]]) -> None:
    """Count them in their functions, their batches and their owners' shares."""
    by_kind: dict[int, list[Run]] = defaultdict(list)
    for told, (_, _, kind, _, _, submitted_at, started_at, predicted, high, _) in ended:
        used = told.report.used or NOTHING
        queue_seconds = started_at - submitted_at
        run = run_of(used, queue_seconds=queue_seconds, predicted=predicted, high=high)
        by_kind[kind].append(run)
        told.decided = DONE
    for number, runs in by_kind.items():
        kind = group.memory.kinds[number]
        group.count_attempts(kind, runs, is_success=True)
        predicted = sum(abs(run[6]) for run in runs)
        group.settle(kind.spec.owner, predicted=predicted, seconds=sum(run[0] for run in runs))
    for batch, count in Counter([row[3] for _, row in ended]).items():
        group.count_end(batch, State.SUCCEEDED, count)


def _ended(group: Group, told: Told, row: Sequence[Any]) -> Ended:
    number, task, kind, batch, position, *_, n = row
    return Ended(
        number,
        task,
        group.memory.kinds[kind].spec.owner,
        batch,
        position if position is not None else -1,
        State.SUCCEEDED,
        group.memory.server,
        n,
        told.report.encoding,
        told.report.answer,
    )


def _note_workers(group: Group, ended: Sequence[tuple[Told, Sequence[Any]]]) -> None:
    """Learn how fast workers are, and how long environments took to build there."""
    memory = group.memory
    for told, (_, _, kind, *_, predicted, _, _) in ended:
        used = told.report.used or NOTHING
        if predicted >= LONG_SECONDS:
            memory.placement.note_run(told.worker, predicted=predicted, seconds=used.run_seconds)
        if used.install_seconds >= INSTALL_SECONDS:
            request = memory.requests[memory.kinds[kind].spec.request]
            memory.placement.note_install(request.environment, used.install_seconds)


# ---- all else, by the rules


async def _decide_some(group: Group, told: Sequence[Told]) -> None:
    """Decide reports of different tasks."""
    rows = by_number(await _read(group, told))
    by_id = {row.id: row for row in rows.values()}
    found = [
        rows.get(each.report.lease.number)
        if each.report.lease is not None
        else by_id.get(each.report.task or b"")
        for each in told
    ]
    issued = await _issued(group, told, found)
    changes = Changes(group)
    for each, row in zip(told, found, strict=True):
        attempt = _attempt(each, row, issued)
        each.decided = await _decide(group, changes, each, attempt)
    await changes.write()


async def _read(group: Group, told: Sequence[Told]) -> list[FullRow]:
    numbers = {each.report.lease.number for each in told if each.report.lease is not None}
    ids = {each.report.task for each in told if each.report.lease is None and each.report.task}
    if ids:
        numbers.update(await lock_ids(group, ids))
    return await read_locked(group, await lock_numbers(group, numbers))


Past = dict[tuple[int, int, int], list[tuple[LeaseKey, Issued]]]
"""Task, worker and generation -> attempts that ended without ending the task."""


async def _issued(group: Group, told: Sequence[Told], rows: Sequence[FullRow | None]) -> Past:
    pairs = {
        (row.number, each.worker) for each, row in zip(told, rows, strict=True) if row is not None
    }
    past: Past = defaultdict(list)
    if not pairs:
        return past
    for task, worker, generation, lease, attempt, ok, digest in await group.fetch(
        _ISSUED, *columns(list(pairs))
    ):
        outcome = None if ok is None else (ok, digest)
        key = LeaseKey(task, attempt, lease)
        past[task, worker, generation].append((key, Issued(holds=False, told=outcome)))
    return past


def _attempt(told: Told, row: FullRow | None, past: Past) -> Attempt:
    """Which attempt a report speaks of."""
    if row is None or row.is_purged:
        return Attempt(row)
    mine = list(past.get((row.number, told.worker, row.generation), ()))
    if row.lease is not None and row.worker == told.worker:
        mine.append((row.lease, _present(row)))
    lease = told.report.lease
    if lease is None and mine:
        known, issued = max(mine, key=lambda each: each[0].attempt)
        return Attempt(row, known, issued, any_issued=True)
    for known, issued in mine:
        if lease is not None and known.secret == lease.secret and known.attempt == lease.attempt:
            return Attempt(row, known, issued, any_issued=True)
    return Attempt(row, any_issued=bool(mine))


def _present(row: FullRow) -> Issued:
    if row.state is State.RUNNING:
        return Issued(holds=True, told=None)
    assert row.encoding is not None and row.outcome is not None
    told = (row.state is State.SUCCEEDED, digest_of(row.encoding, row.outcome))
    return Issued(holds=False, told=told)


async def _decide(group: Group, changes: Changes, told: Told, attempt: Attempt) -> Decided:
    report = told.report
    if report.outcome in ("crashed", "released"):
        return await _give_up(group, changes, told, attempt)
    if attempt.row is not None and attempt.row.is_purged:
        return Decided(410)
    verdict = transitions.answer(
        attempt.row.as_row() if attempt.row else None,
        attempt.issued,
        any_issued=attempt.any_issued,
        is_success=report.outcome == "succeeded",
        digest=digest_of(report.encoding, report.answer),
        kind=report.error_kind,
        policy=group.policy,
        jitter=group.jitter(),
    )
    if verdict.change is not None:
        assert attempt.row is not None and attempt.lease is not None and attempt.issued is not None
        if lacks_blob(report, group.missing_blobs):
            return Decided(422)
        await keep_reported(group, [(attempt.row.number, report)])
        _answer(group, changes, attempt.row, attempt.issued, attempt.lease, report, verdict.change)
        if report.log:
            await group.write_logs([(attempt.row.number, attempt.lease.attempt, report.log)])
    return Decided(verdict.status, verdict.duplicate)


def _answer(
    group: Group,
    changes: Changes,
    row: FullRow,
    issued: Issued,
    lease: LeaseKey,
    report: AttemptReport,
    change: Change,
) -> None:
    is_success = report.outcome == "succeeded"
    told = (is_success, digest_of(report.encoding, report.answer))
    if not issued.holds:
        changes.tell_past(lease, told)
    if row.state is State.RUNNING:
        changes.end_attempt(
            row, told=told if issued.holds else None, why="" if issued.holds else "gone"
        )
    if report.used is None:
        # A plain worker need not measure: from its lease to its answer is as near as can be known.
        begun = row.started_at if issued.holds and row.started_at else group.now
        report.used = Used(run_seconds=max(group.now - begun, 0.0))
    run = run_of(
        report.used,
        queue_seconds=(row.started_at or group.now) - row.submitted_at,
        predicted=row.predicted,
        high=row.predicted_high,
    )
    group.count_attempts(row.kind, [run], is_success=is_success)
    if ran_out_of_memory(report):
        group.count_out_of_memory(row.kind, report.used.peak_bytes)
        if change.state is State.DELAYED and group.policy.reserves_memory:
            changes.change_kind(row, roomier(row.kind.spec, report))
    if issued.holds:
        seconds = report.used.run_seconds
        group.settle(row.kind.spec.owner, predicted=row.predicted, seconds=seconds)
    changes.apply(row, change, report)


async def _give_up(group: Group, changes: Changes, told: Told, attempt: Attempt) -> Decided:
    """T9 told by the agent, or T10."""
    report, row, issued = told.report, attempt.row, attempt.issued
    if row is None or issued is None or not issued.holds:
        return Decided(409)
    if report.outcome == "crashed":
        change = transitions.crash(
            row.as_row(), was_delivered=True, policy=group.policy, jitter=group.jitter()
        )
    else:
        change = transitions.release(
            row.as_row(),
            unfit=report.unfit,
            # A worker that must end at once gives back what runs, too.
            is_withdrawn=row.is_withdrawn and report.used is None,
            policy=group.policy,
        )
        group.settle(row.kind.spec.owner, predicted=row.predicted, seconds=0.0)
        await _mark_broken(group, told, row)
    if report.log:
        await group.write_logs([(row.number, row.attempt, report.log)])
    changes.end_attempt(row)
    changes.apply(row, change, report if change.state is State.FAILED else None)
    return Decided(200)


async def _mark_broken(group: Group, told: Told, row: FullRow) -> None:
    memory, report = group.memory, told.report
    request = memory.requests_by_number[memory.lanes[row.kind.lane].request]
    seconds = transitions.exclusion_seconds(
        unfit=report.unfit, pause_seconds=report.pause_seconds, policy=group.policy
    )
    if request.environment is None or not seconds:
        return
    pair, until = (told.worker, request.environment), group.now + seconds
    group.broken[pair] = until
    await group.execute(
        "INSERT INTO worker_environments (worker, environment, state, broken_until, told_at)"
        " VALUES ($1, $2, 'failed', $3, $4) ON CONFLICT (worker, environment) DO UPDATE SET"
        " state = excluded.state, broken_until = excluded.broken_until, told_at = excluded.told_at",
        *pair,
        until,
        group.now,
    )
