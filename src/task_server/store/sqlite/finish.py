"""T6 to T10: what workers report, decided and written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from task_server.scheduling.placement import INSTALL_SECONDS, LONG_SECONDS
from task_server.scheduling.statistics import Run
from task_server.store import transitions
from task_server.store.attempts import DONE, AttemptReport, Decided, LeaseKey, Used
from task_server.store.outcomes import (
    INLINE_BYTES,
    digest_of,
    plausible,
    ran_out_of_memory,
    roomier,
    run_of,
)
from task_server.store.sqlite.blobs import keep_reported, lacks_blob
from task_server.store.sqlite.change import (
    FullRow,
    LostUpdate,
    change_kind,
    end_attempt,
    read_row,
    settle,
    write_change,
)
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import write_many
from task_server.store.sqlite.memory import Running, Session
from task_server.store.sqlite.told import as_read, ended, ended_at
from task_server.store.states import BLOBS, State
from task_server.store.transitions import Change, Issued

_END = (
    "UPDATE tasks SET state = w.column4, outcome = w.column5, encoding = w.column6,"
    " usage = w.column7, n = w.column8, ended_at = w.column9"
    " FROM (VALUES {rows}) AS w WHERE tasks.number = w.column1"
    # The lease must still be the one that was given: a task that moved on keeps its new state.
    " AND tasks.state = 2 AND tasks.attempt = w.column2 AND tasks.secret = w.column3"
)


Held = tuple[AttemptReport, Running]
"""A report of a lease that ends its task for good."""
NOTHING = Used()
SUCCEEDED, FAILED = int(State.SUCCEEDED), int(State.FAILED)

_encode = msgspec.msgpack.Encoder().encode


class Attempt(Struct):
    """A reported attempt as the store knows it."""

    row: FullRow | None
    lease: LeaseKey | None
    """None: never issued to this worker in this generation."""
    issued: Issued | None
    any_issued: bool


def report_all(group: Group, session: Session, reports: list[AttemptReport]) -> list[Decided]:
    """Decide each report; of several for one lease the first that ends its task counts."""
    held: dict[int, Held] = {}
    for index, report in enumerate(reports):
        if report.used is not None:
            report.used = plausible(report.used)
        running = _held_to_its_end(session, report)
        if running is not None and not (report.encoding in BLOBS and lacks_blob(group, report)):
            held[index] = (report, running)
            del session.leases[running.number]
    if held:
        _end_held(group, session, list(held.values()))
        _note_worker(group, session, held.values())
    return [
        DONE if index in held else _decide(group, session, report)
        for index, report in enumerate(reports)
    ]


def _note_worker(
    group: Group, session: Session, held: Iterable[tuple[AttemptReport, Running]]
) -> None:
    """Learn how fast a worker is, and how long an environment took to build there."""
    placement = group.memory.placement
    for report, running in held:
        used = report.used
        if used is None:
            continue
        if running.predicted >= LONG_SECONDS and report.outcome == "succeeded":
            placement.note_run(
                session.worker, predicted=running.predicted, seconds=used.run_seconds
            )
        if used.install_seconds >= INSTALL_SECONDS:
            request = group.memory.requests[running.kind.spec.request]
            placement.note_install(request.environment, used.install_seconds)


def _held_to_its_end(session: Session, report: AttemptReport) -> Running | None:
    """The lease that a report ends for good: an answer, or a failure without another try."""
    if report.lease is None or report.outcome not in ("succeeded", "failed"):
        return None
    lease = report.lease
    running = session.leases.get(lease.number)
    if running is None or (running.attempt, running.secret) != (lease.attempt, lease.secret):
        return None
    is_last = report.outcome == "succeeded" or running.kind.spec.max_attempts <= 1
    return running if is_last else None


def _end_held(group: Group, session: Session, held: list[Held]) -> None:
    """End tasks whose holder says so."""
    first_n = group.memory.next_n
    rows = [
        (
            running.number,
            running.attempt,
            bytearray(running.secret),
            SUCCEEDED if report.outcome == "succeeded" else FAILED,
            bytearray(report.answer) if len(report.answer) <= INLINE_BYTES else None,
            int(report.encoding),
            bytearray(_encode(report.used)) if report.used else None,
            n,
            ended_at(group, running),
        )
        for n, (report, running) in enumerate(held, first_n)
    ]
    if write_many(group.connection, _END, rows) != len(rows):
        raise LostUpdate("a lease was not as its session had it")
    group.memory.next_n = first_n + len(held)
    for report, running in held:
        if b'"$blob"' in report.answer or report.encoding in BLOBS:
            keep_reported(group, running.number, report)
    failed = [each for each in held if each[0].outcome != "succeeded"]
    if failed:
        _count_ends(group, failed)
    if len(failed) < len(held):
        _count_ends(group, [each for each in held if each[0].outcome == "succeeded"])
    ends = [ended(report, running, n) for n, (report, running) in enumerate(held, first_n)]
    for end, (report, running) in zip(ends, held, strict=True):
        if running.id in group.watched:
            end.task = as_read(group, session, report, running)
    group.ended += ends
    group.write_outcomes([(running.number, report.answer) for report, running in held])
    group.write_logs(
        [(running.number, running.attempt, report.log) for report, running in held if report.log]
    )


def _count_ends(group: Group, held: list[Held]) -> None:
    """Count what succeeded, or what failed: in its function, its batch and its owner's share."""
    by_kind: dict[int, list[Held]] = defaultdict(list)
    for each in held:
        by_kind[each[1].kind.number].append(each)
    for some in by_kind.values():
        report, running = some[0]
        is_success = report.outcome == "succeeded"
        runs = [_run(report, running) for report, running in some]
        group.count_attempts(running.kind, runs, is_success=is_success)
        if not is_success:
            _count_out_of_memory(group, some)
        predicted = seconds = 0.0
        counts: dict[int | None, int] = {}
        for (_, one), run in zip(some, runs, strict=True):
            predicted += abs(one.predicted)
            seconds += run[0]
            counts[one.batch] = counts.get(one.batch, 0) + 1
        owner = running.kind.spec.owner
        group.memory.shares.settle(owner, predicted=predicted, seconds=seconds)
        state = State.SUCCEEDED if is_success else State.FAILED
        for batch, count in counts.items():
            group.count_end(batch, state, count)


def _count_out_of_memory(group: Group, failed: Iterable[Held]) -> None:
    for report, running in failed:
        if ran_out_of_memory(report) and report.used is not None:
            group.count_out_of_memory(running.kind, report.used.peak_bytes)


def _run(report: AttemptReport, running: Running) -> Run:
    return run_of(
        report.used or NOTHING,
        queue_seconds=running.started_at - running.submitted_at,
        predicted=running.predicted,
        high=running.predicted_high,
    )


# ---- one by one: what is not the plain end of a held lease


def _decide(group: Group, session: Session, report: AttemptReport) -> Decided:
    attempt = _attempt(group, session, report)
    if report.outcome in ("crashed", "released"):
        return _give_up(group, session, report, attempt)
    if attempt.row is not None and attempt.row.is_purged:
        return Decided(410)
    digest = digest_of(report.encoding, report.answer)
    verdict = transitions.answer(
        attempt.row.as_row() if attempt.row else None,
        attempt.issued,
        any_issued=attempt.any_issued,
        is_success=report.outcome == "succeeded",
        digest=digest,
        kind=report.error_kind,
        policy=group.policy,
        jitter=group.jitter(),
    )
    if verdict.change is not None:
        if lacks_blob(group, report):
            return Decided(422)
        assert attempt.row is not None and attempt.lease is not None and attempt.issued is not None
        _write_answer(group, attempt.row, attempt.lease, attempt.issued, report, verdict.change)
    return Decided(verdict.status, verdict.duplicate)


def _write_answer(
    group: Group,
    row: FullRow,
    lease: LeaseKey,
    issued: Issued,
    report: AttemptReport,
    change: Change,
) -> None:
    is_success = report.outcome == "succeeded"
    told = (is_success, digest_of(report.encoding, report.answer))
    if not issued.holds:
        group.connection.execute(
            "UPDATE past_attempts SET outcome_ok = ?, outcome_digest = ? WHERE lease = ?",
            (told[0], told[1], lease.secret),
        )
    if row.state is State.RUNNING:
        end_attempt(group, row, told=told if issued.holds else None, is_stopped=not issued.holds)
    if report.used is None:
        # A plain worker need not measure: from its lease to its answer is as near as can be known.
        begun = row.started_at if issued.holds and row.started_at else group.now
        report.used = Used(run_seconds=max(group.now - begun, 0.0))
    used = report.used
    run = run_of(
        used,
        queue_seconds=(row.started_at or group.now) - row.submitted_at,
        predicted=row.predicted,
        high=row.predicted_high,
    )
    group.count_attempts(row.kind, [run], is_success=is_success)
    if ran_out_of_memory(report):
        group.count_out_of_memory(row.kind, used.peak_bytes)
        if change.state is State.DELAYED and group.policy.reserves_memory:
            change_kind(group, row, roomier(row.kind.spec, report))
    if issued.holds:
        settle(group, row, seconds=used.run_seconds)
    if report.log:
        group.write_logs([(row.number, lease.attempt, report.log)])
    keep_reported(group, row.number, report)
    write_change(group, row, change, report=report)


def _give_up(group: Group, session: Session, report: AttemptReport, attempt: Attempt) -> Decided:
    """T9 told by the agent, or T10."""
    row, issued = attempt.row, attempt.issued
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
        settle(group, row, seconds=0.0)
        _mark_broken(group, session, row, report)
    if report.log:
        group.write_logs([(row.number, row.attempt, report.log)])
    end_attempt(group, row, told=None, is_stopped=False)
    write_change(group, row, change, report=report if change.state is State.FAILED else None)
    return Decided(200)


def _mark_broken(group: Group, session: Session, row: FullRow, report: AttemptReport) -> None:
    request = group.memory.requests_by_number[group.memory.lanes[row.kind.lane].request]
    seconds = transitions.exclusion_seconds(
        unfit=report.unfit, pause_seconds=report.pause_seconds, policy=group.policy
    )
    if request.environment is None or not seconds:
        return
    until = group.now + seconds
    group.memory.broken[session.worker, request.environment] = until
    group.connection.execute(
        "INSERT OR REPLACE INTO worker_environments (worker, environment, state, broken_until)"
        " VALUES (?, ?, 'failed', ?)",
        (session.worker, request.environment, until),
    )


# ---- which attempt a report speaks of


def _attempt(group: Group, session: Session, report: AttemptReport) -> Attempt:
    row = _row_of(group, report)
    if row is None or row.is_purged:
        return Attempt(row, None, None, any_issued=False)
    mine = _issued_to(group, row, session.worker)
    lease = report.lease
    if lease is None and mine:
        last = max(mine, key=lambda each: each[0].attempt)
        return Attempt(row, last[0], last[1], any_issued=True)
    for known, issued in mine:
        if lease is not None and known.secret == lease.secret and known.attempt == lease.attempt:
            return Attempt(row, known, issued, any_issued=True)
    return Attempt(row, None, None, any_issued=bool(mine))


def _row_of(group: Group, report: AttemptReport) -> FullRow | None:
    if report.lease is not None:
        return read_row(group, "number", report.lease.number)
    return read_row(group, "id", report.task) if report.task is not None else None


def _issued_to(group: Group, row: FullRow, worker: int) -> list[tuple[LeaseKey, Issued]]:
    """All attempts of the task's present generation that this worker was given."""
    rows = group.connection.execute(
        "SELECT lease, attempt, outcome_ok, outcome_digest FROM past_attempts"
        " WHERE task = ? AND worker = ? AND generation = ?",
        (row.number, worker, row.generation),
    ).fetchall()
    found = [
        (
            LeaseKey(row.number, attempt, lease),
            Issued(holds=False, told=None if ok is None else (bool(ok), digest)),
        )
        for lease, attempt, ok, digest in rows
    ]
    if row.lease is not None and _worker_of(group, row.session) == worker:
        found.append((row.lease, _present(row)))
    return found


def _present(row: FullRow) -> Issued:
    if row.state is State.RUNNING:
        return Issued(holds=True, told=None)
    assert row.encoding is not None and row.outcome is not None
    told = (row.state is State.SUCCEEDED, digest_of(row.encoding, row.outcome))
    return Issued(holds=False, told=told)


def _worker_of(group: Group, session: int | None) -> int | None:
    known = group.memory.sessions_by_row.get(session or 0)
    if known is not None:
        return known.worker
    row = group.connection.execute(
        "SELECT worker FROM sessions WHERE session = ?", (session,)
    ).fetchone()
    return row[0] if row else None
