"""What workers hold and what they should: lost replies, lost tasks, leases that are no more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from task_server.scheduling.timeouts import RunLimit
from task_server.store import transitions
from task_server.store.attempts import Dealt, LeaseKey
from task_server.store.kinds import AUTO
from task_server.store.postgres.change import (
    PHASES,
    RUNNING_PHASE,
    Changes,
    FullRow,
    lock_numbers,
    read_locked,
)
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns, know_kinds
from task_server.store.postgres.session import Session
from task_server.store.sessions import UNSTARTED
from task_server.store.states import State
from task_server.store.transitions import Change

MAXIMUM_ENVIRONMENTS = 1000
"""Environments remembered of one worker, the newest."""

_ENVIRONMENTS = """
INSERT INTO worker_environments AS e (worker, environment, state, told_at)
SELECT w.*, $4 FROM unnest($1::int[], $2::text[], $3::text[]) AS w ORDER BY 1, 2
ON CONFLICT (worker, environment) DO UPDATE SET
  state = excluded.state, told_at = excluded.told_at"""
_FORGET_ENVIRONMENTS = """
DELETE FROM worker_environments WHERE worker = $1 AND broken_until IS NULL AND environment IN (
  SELECT environment FROM worker_environments WHERE worker = $1
   ORDER BY told_at DESC, environment OFFSET $2)"""
_OLDER = """
SELECT t.number, t.attempt
  FROM unnest($1::int[], $2::bigint[]) AS w(worker, session)
  JOIN sessions s ON s.worker = w.worker AND s.session <> w.session AND s.is_plain = 0
 CROSS JOIN LATERAL (
   SELECT x.number, x.attempt FROM tasks x WHERE x.session = s.session AND x.state = 2
   OFFSET 0) t"""
_HELD = """
SELECT t.session, t.number, t.attempt, t.secret, t.reply, t.phase
  FROM unnest($1::bigint[]) AS w(session)
 CROSS JOIN LATERAL (
   SELECT x.* FROM tasks x WHERE x.session = w.session AND x.state = 2 OFFSET 0) t"""
_PHASES = """
UPDATE tasks t SET phase = w.phase
  FROM unnest($1::bigint[], $2::int[], $3::int[]) AS w(number, attempt, phase)
 WHERE t.number = w.number AND t.attempt = w.attempt AND t.state + 0 = 2"""
_WHY_GONE = """
SELECT p.lease, p.worker, t.state
  FROM unnest($1::bytea[]) AS w(lease)
 CROSS JOIN LATERAL (SELECT x.* FROM past_attempts x WHERE x.lease = w.lease OFFSET 0) p
 CROSS JOIN LATERAL (SELECT x.state FROM tasks x WHERE x.number = p.task OFFSET 0) t"""
_UNSEEN = """
SELECT t.session, t.number, t.id, t.kind, t.attempt, t.secret, coalesce(t.payload, p.data),
       e.limit_seconds, e.limit_why
  FROM unnest($1::bigint[], $2::bigint[]) AS w(session, seen)
 CROSS JOIN LATERAL (
   SELECT x.* FROM tasks x WHERE x.session = w.session AND x.state = 2 AND x.reply > w.seen
   OFFSET 0) t
  LEFT JOIN payloads p ON p.number = t.number AND p.part = 0
  LEFT JOIN task_extras e ON e.number = t.number
 ORDER BY t.reply, t.number"""


async def go_on(group: Group, sessions: Sequence[Session]) -> None:
    """The newest exchanges of their sessions: what they hold, miss, and are to be told."""
    if not sessions:
        return
    lost = await _older(group, [each for each in sessions if each.number == 0])
    lost |= await _missing(group, [each for each in sessions if each.request.held is not None])
    if lost:
        rows = await read_locked(group, await lock_numbers(group, lost))
        await lose(group, [row for row in rows if row.attempt == lost[row.number]])
    await _send_unseen(group, sessions)


async def note_environments(group: Group, sessions: Sequence[Session]) -> None:
    """Keep what workers tell of their environments."""
    rows = {
        (session.worker, each.digest): (session.worker, each.digest, each.state)
        for session in sessions
        for each in session.request.environments
        if "\0" not in each.digest
    }
    if not rows:
        return
    await group.execute(_ENVIRONMENTS, *columns(list(rows.values())), group.now)
    for worker in {worker for worker, _ in rows}:
        await group.execute(_FORGET_ENVIRONMENTS, worker, MAXIMUM_ENVIRONMENTS)


async def _older(group: Group, sessions: Sequence[Session]) -> dict[int, int]:
    """What older sessions of a worker held and its first exchange did not report is lost."""
    if not sessions:
        return {}
    rows = [(each.worker, each.session) for each in sessions]
    return dict(await group.fetch(_OLDER, *columns(rows)))


async def _missing(group: Group, sessions: Sequence[Session]) -> dict[int, int]:
    """What a worker has seen and does not hold is lost; what it holds in vain it is told."""
    if not sessions:
        return {}
    by_session = {each.session: each for each in sessions}
    phases = {each.session: _phases(each) for each in sessions}
    lost: dict[int, int] = {}
    changed: list[tuple[int, int, int]] = []
    for session, number, attempt, secret, reply, phase in await group.fetch(
        _HELD, list(by_session)
    ):
        said = phases[session].pop(LeaseKey(number, attempt, secret).text, None)
        if said is None:
            if reply <= by_session[session].seen:
                lost[number] = attempt
        elif said != phase:
            changed.append((number, attempt, said))
    if changed:
        await group.execute(_PHASES, *columns(sorted(changed)))
    await _tell_gone(group, [(by_session[each], list(said)) for each, said in phases.items()])
    return lost


def _phases(session: Session) -> dict[str, int]:
    """Lease -> phase, of all that it holds and does not report."""
    reported = {told.report.lease.text for told in session.told if told.report.lease is not None}
    held = session.request.held or ()
    return {each.lease: PHASES.index(each.phase) for each in held if each.lease not in reported}


async def _tell_gone(group: Group, held: Sequence[tuple[Session, list[str]]]) -> None:
    """Leases that workers believe to hold are no more: tell them, and why."""
    unknown = [
        (session, lease)
        for session, leases in held
        for lease in leases
        if lease not in {told for told, why in session.stops if why != UNSTARTED}
    ]
    if not unknown:
        return
    keys = [key for _, lease in unknown if (key := LeaseKey.parse(lease)) is not None]
    rows = await group.fetch(_WHY_GONE, [key.secret for key in keys])
    cancelled = {
        (secret, worker) for secret, worker, state in rows if state == int(State.CANCELLED)
    }
    for session, lease in unknown:
        key = LeaseKey.parse(lease)
        is_cancelled = key is not None and (key.secret, session.worker) in cancelled
        session.stops.append((lease, "cancelled" if is_cancelled else "gone"))


async def _send_unseen(group: Group, sessions: Sequence[Session]) -> None:
    """Tasks of replies that did not arrive: the same again, in this reply."""
    by_session = {each.session: each for each in sessions if each.seen < each.number}
    if not by_session:
        return
    rows = await group.fetch(_UNSEEN, list(by_session), [each.seen for each in by_session.values()])
    await know_kinds(group.connection, group.memory, {row[3] for row in rows})
    for session, *row in rows:
        by_session[session].tasks.append(_dealt(group, row))


async def give_again(group: Group) -> None:
    """The group before may have been committed: then parked workers have tasks already."""
    waiters = {
        session: waiter
        for session, waiter in group.memory.waiters.items()
        if session not in group.parking
    }
    if not waiters:
        return
    numbers = [waiter.number - 1 for waiter in waiters.values()]
    rows = await group.fetch(_UNSEEN, list(waiters), numbers)
    await know_kinds(group.connection, group.memory, {row[3] for row in rows})
    for session, *row in rows:
        group.given.setdefault(waiters[session], []).append(_dealt(group, row))


def _dealt(group: Group, row: Sequence[Any]) -> Dealt:
    number, task, kind, attempt, secret, payload, *limit = row
    dealt = Dealt(number, task, group.memory.kinds[kind], attempt, secret, payload or b"")
    if dealt.kind.spec.timeout == AUTO:
        dealt.limit = RunLimit(*limit)
    return dealt


async def lose(group: Group, rows: Iterable[FullRow]) -> None:
    """T9 for leases that are no more, or T10 for what a live session never told as running."""
    changes = Changes(group)
    for row in rows:
        if row.state is State.RUNNING:
            changes.end_attempt(row)
            changes.apply(row, _lost(group, row))
    await changes.write()


def _lost(group: Group, row: FullRow) -> Change:
    is_alive = not row.is_over and (row.alive_until or 0.0) > group.now
    if is_alive and row.phase != RUNNING_PHASE:
        group.settle(row.kind.spec.owner, predicted=row.predicted, seconds=0.0)
        return transitions.release(
            row.as_row(), unfit=False, is_withdrawn=row.is_withdrawn, policy=group.policy
        )
    return transitions.crash(
        row.as_row(),
        was_delivered=(row.seen or 0) >= (row.reply or 0),
        policy=group.policy,
        jitter=group.jitter(),
    )
