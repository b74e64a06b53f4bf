"""Workers join, exchange and park: sessions and what they hold."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from task_server.errors import Invalid, NotFound, SessionOver
from task_server.protocol.ids import new_id, to_text
from task_server.store import transitions
from task_server.store.attempts import Dealt, LeaseKey
from task_server.store.group_commit import Operation
from task_server.store.sessions import (
    PLAIN_SECONDS,
    UNSTARTED,
    ExchangeRequest,
    ExchangeResult,
    JoinRequest,
    WorkerFacts,
)
from task_server.store.sqlite.change import end_attempt, read_row, settle, write_change
from task_server.store.sqlite.finish import report_all
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import Running, Session, Waiter
from task_server.store.states import State

MAXIMUM_NUMBER = 2**53
"""Of an exchange."""
MAXIMUM_ENVIRONMENTS = 1000
"""Environments remembered of one session, the newest."""


def join(group: Group, request: JoinRequest) -> str:
    """Begin a session; the older ones of that worker are over."""
    worker, worker_id = _worker(group, request)
    session = _begin(group, worker, worker_id, request.session, request.token, request.facts)
    for older in list(group.memory.sessions.values()):
        if older.worker == worker and older is not session and not older.facts.is_plain:
            _supersede(group, session, older)
    return worker_id


def _worker(group: Group, request: JoinRequest) -> tuple[int, str]:
    facts = msgspec.msgpack.encode(request.facts)
    row = group.connection.execute(
        "SELECT worker FROM workers WHERE id = ? AND token = ?"
        # A plain worker's row is its token's, not one to join as.
        " AND NOT EXISTS (SELECT 1 FROM sessions"
        " WHERE worker = workers.worker AND is_over = 0 AND is_plain = 1)",
        (request.worker, request.token),
    ).fetchone()
    if row is not None:
        group.connection.execute(
            "UPDATE workers SET name = ?, facts = ?, joined_at = ?, seen_at = ? WHERE worker = ?",
            (request.facts.name, facts, group.now, group.now, row[0]),
        )
        return row[0], str(request.worker)
    worker_id = to_text(new_id())
    return _insert_worker(group, worker_id, request.token, request.facts), worker_id


def _insert_worker(group: Group, worker_id: str, token: int, facts: WorkerFacts) -> int:
    cursor = group.connection.execute(
        "INSERT INTO workers (id, token, name, facts, joined_at, seen_at)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        (worker_id, token, facts.name, msgspec.msgpack.encode(facts), group.now, group.now),
    )
    return int(cursor.lastrowid or 0)


def _begin(
    group: Group, worker: int, worker_id: str, session: str, token: int, facts: WorkerFacts
) -> Session:
    alive_until = group.now + group.lease_seconds
    cursor = group.connection.execute(
        "INSERT INTO sessions (id, worker, is_plain, alive_until, number, seen)"
        " VALUES (?, ?, ?, ?, 0, 0)",
        (session, worker, int(facts.is_plain), alive_until),
    )
    made = Session(
        int(cursor.lastrowid or 0),
        session,
        worker=worker,
        worker_id=worker_id,
        token=token,
        facts=facts,
    )
    made.alive_until = alive_until
    group.memory.sessions[session] = made
    group.memory.sessions_by_row[made.row] = made
    return made


def _supersede(group: Group, session: Session, older: Session) -> None:
    unpark_session(group, older)
    older.is_over = True
    session.older += [*older.older, older]
    older.older = []
    group.connection.execute("UPDATE sessions SET is_over = 1 WHERE session = ?", (older.row,))
    del group.memory.sessions[older.id]


# ---- exchange


def exchange(group: Group, request: ExchangeRequest, operation: Operation[ExchangeResult]) -> None:
    """Decide reports, renew, and park the operation until there is something to tell."""
    if not 0 <= request.number < MAXIMUM_NUMBER:
        raise Invalid("number: count the exchanges of the session from 1", field="number")
    session = group.memory.sessions.get(request.session)
    if session is None or session.token != request.token or session.facts.is_plain:
        _exchange_of_the_past(group, request, operation)
        return
    if session.worker_id != request.worker:
        raise NotFound("the session is another worker's")
    result = ExchangeResult(report_all(group, session, request.reports), [], [])
    _renew(group, session, request)
    if request.number < session.number:
        operation.settle(result)
        return
    if session.waiter is not None:
        session.waiter.result.tasks = []  # the newer reply carries them
        unpark(group, session.waiter)
    session.number = request.number
    _note_environments(session, request)
    _settle_older(group, session)
    if request.held is not None:
        _settle_held(group, session, request)
    result.tasks = _unseen_tasks(session)
    _park(group, session, request, operation, result)


def _exchange_of_the_past(
    group: Group, request: ExchangeRequest, operation: Operation[ExchangeResult]
) -> None:
    row = group.connection.execute(
        "SELECT s.session, s.worker, w.id, w.facts FROM sessions s JOIN workers w USING (worker)"
        " WHERE s.id = ? AND w.token = ?",
        (request.session, request.token),
    ).fetchone()
    if row is None:
        operation.fail(SessionOver("the session is not known; join again"))
        return
    facts = msgspec.msgpack.decode(row[3], type=WorkerFacts)
    past = Session(
        row[0], request.session, worker=row[1], worker_id=row[2], token=request.token, facts=facts
    )
    report_all(group, past, request.reports)
    operation.fail(SessionOver("the session has ended; join again"))


def _renew(group: Group, session: Session, request: ExchangeRequest) -> None:
    session.alive_until = group.now + group.lease_seconds
    session.is_dirty = True
    if request.seen > session.seen:
        session.seen = min(request.seen, request.number - 1)
        session.unseen = [each for each in session.unseen if each[0] > session.seen]


def _note_environments(session: Session, request: ExchangeRequest) -> None:
    if not request.environments:
        return
    session.environments.update({each.digest: each.state for each in request.environments})
    while len(session.environments) > MAXIMUM_ENVIRONMENTS:
        del session.environments[next(iter(session.environments))]


def _settle_older(group: Group, session: Session) -> None:
    """What older sessions of this worker held and its first exchange did not report is lost."""
    for older in session.older:
        lose(group, older, list(older.leases.values()))
        group.memory.sessions_by_row.pop(older.row, None)
    session.older = []


def _settle_held(group: Group, session: Session, request: ExchangeRequest) -> None:
    """The full list of what the worker holds: what it has seen and does not hold is lost."""
    phases = {each.lease: each.phase for each in request.held or ()}
    for report in request.reports:
        if report.lease is not None:
            phases.pop(report.lease.text, None)
    gone = []
    for running in session.leases.values():
        phase = phases.pop(running.key.text, None)
        if phase is not None:
            running.phase = phase
        elif running.reply <= session.seen:
            gone.append(running)
    lose(group, session, gone)
    told = {lease for lease, why in session.stops if why != UNSTARTED}
    for lease in phases.keys() - told:
        session.stop(lease, _why_gone(group, session, lease))


def _why_gone(group: Group, session: Session, lease: str) -> str:
    """Why a lease that a worker believes to hold is no more."""
    key = LeaseKey.parse(lease)
    row = (
        None
        if key is None
        else group.connection.execute(
            "SELECT t.state FROM past_attempts p JOIN tasks t ON t.number = p.task"
            " WHERE p.lease = ? AND p.worker = ?",
            (key.secret, session.worker),
        ).fetchone()
    )
    return "cancelled" if row == (int(State.CANCELLED),) else "gone"


def _unseen_tasks(session: Session) -> list[Dealt]:
    """Tasks of replies that did not arrive: the same again, in this reply."""
    if not session.unseen:
        return []
    again = [
        dealt
        for _, tasks in session.unseen
        for dealt in tasks
        if dealt.number in session.leases and session.leases[dealt.number].attempt == dealt.attempt
    ]
    session.unseen = [(session.number, again)] if again else []
    return again


def _park(
    group: Group,
    session: Session,
    request: ExchangeRequest,
    operation: Operation[ExchangeResult],
    result: ExchangeResult,
) -> None:
    want = 0 if request.draining else max(request.want - len(result.tasks), 0)
    session.waiter = Waiter(session, operation, want=want, result=result)
    group.memory.parked[operation] = session.waiter
    is_told = bool(result.decisions) and not request.is_patient
    has_news = bool(is_told or result.tasks or session.stops)
    if has_news or request.wait_until <= group.now:
        group.tell.append(session)


def unpark(group: Group, waiter: Waiter) -> None:
    """Answer a parked request with what there is."""
    if group.memory.parked.pop(waiter.operation, None) is None:
        return
    session = waiter.session
    if session.waiter is waiter:
        session.waiter = None
        waiter.result.stop += session.stops
        session.stops = []
    waiter.operation.settle(waiter.result)
    group.settled.append(waiter.operation)


def unpark_session(group: Group, session: Session) -> None:
    """Answer a session's parked exchange, if there is one."""
    if session.waiter is not None:
        unpark(group, session.waiter)


def lose(group: Group, session: Session, leases: Iterable[Running]) -> None:
    """T9 for leases that are no more, or T10 for what a live session never told as running."""
    for running in leases:
        group.begin()
        row = read_row(group, "number", running.number)
        session.leases.pop(running.number, None)
        if row is None or row.state is not State.RUNNING or row.secret != running.secret:
            continue
        is_alive = not session.is_over and session.alive_until > group.now
        if is_alive and running.phase != "running":
            change = transitions.release(
                row.as_row(), unfit=False, is_withdrawn=row.is_withdrawn, policy=group.policy
            )
            settle(group, row, seconds=0.0)
        else:
            change = transitions.crash(
                row.as_row(),
                was_delivered=session.seen >= running.reply,
                policy=group.policy,
                jitter=group.jitter(),
            )
        end_attempt(group, row, told=None, is_stopped=False)
        write_change(group, row, change)


# ---- plain workers


def plain_session(group: Group, token: int) -> Session:
    """The one session of a plain worker's token."""
    name = f"plain-{token}"
    found = group.memory.sessions.get(name)
    if found is None:
        facts = WorkerFacts(name=name, slots=0, is_plain=True)
        row = group.connection.execute(
            "SELECT worker FROM workers WHERE id = ?", (name,)
        ).fetchone()
        worker = row[0] if row else _insert_worker(group, name, token, facts)
        found = _begin(group, worker, name, name, token, facts)
    return found


def plain_lease(
    group: Group,
    token: int,
    operation: Operation[ExchangeResult],
    *,
    wait_until: float,
    seconds: float,
) -> Waiter:
    """Park a plain worker's request for one task."""
    session = plain_session(group, token)
    session.alive_until = group.now + PLAIN_SECONDS  # only shown: its leases have their own times
    waiter = Waiter(
        session, operation, want=1, result=ExchangeResult([], [], []), plain_seconds=seconds
    )
    group.memory.parked[operation] = waiter
    if wait_until <= group.now:
        group.ending.append(waiter)
    return waiter
