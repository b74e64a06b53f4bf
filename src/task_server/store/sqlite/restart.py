"""What a server that starts finds: running tasks and the sessions that hold them."""

from __future__ import annotations

import msgspec

from task_server.store.contract import Dealt, WorkerFacts
from task_server.store.sqlite.memory import Memory, Running, Session


def restore_sessions(memory: Memory, *, now: float, lease_seconds: float) -> None:
    """Bring back sessions and their leases, each session with a full new term.

    A server that was away cannot tell a silent worker from one that found no server.
    """
    _read_sessions(memory)
    _read_running(memory)
    _extend_sessions(memory, until=now + lease_seconds)
    _arrange(memory)


def extend_leases(memory: Memory, *, now: float, lease_seconds: float) -> None:
    """Every lease lasts at least a full term from `now`."""
    until = now + lease_seconds
    _extend_sessions(memory, until=until)
    memory.connection.execute(
        "UPDATE task_extras SET leased_until = ? WHERE leased_until < ?", (until, until)
    )


def _extend_sessions(memory: Memory, *, until: float) -> None:
    for session in memory.sessions_by_row.values():
        session.alive_until = max(session.alive_until, until)
        session.is_dirty = True


def _read_sessions(memory: Memory) -> None:
    rows = memory.connection.execute(
        "SELECT s.session, s.id, s.worker, w.id, w.token, w.facts, s.alive_until, s.number,"
        " s.seen, s.is_over FROM sessions s JOIN workers w USING (worker)"
        " WHERE s.is_over = 0 OR s.session IN (SELECT session FROM tasks WHERE state = 2)"
    ).fetchall()
    for row, session_id, worker, worker_id, token, facts, *rest in rows:
        session = Session(
            row,
            session_id,
            worker=worker,
            worker_id=worker_id,
            token=token,
            facts=msgspec.msgpack.decode(facts, type=WorkerFacts),
        )
        session.alive_until, session.number, session.seen = rest[:3]
        session.is_over = bool(rest[3])
        memory.sessions_by_row[row] = session


def _read_running(memory: Memory) -> None:
    rows = memory.connection.execute(
        "SELECT t.session, t.number, t.id, t.kind, t.attempt, t.secret, t.batch, t.position,"
        " t.submitted_at, t.started_at, t.reply, t.predicted, ifnull(t.payload, p.data),"
        " ifnull(x.crashes, 0)"
        " FROM tasks t LEFT JOIN payloads p ON p.number = t.number AND p.part = 0"
        " LEFT JOIN task_extras x ON x.number = t.number"
        " WHERE t.state = 2 ORDER BY t.reply, t.number"
    ).fetchall()
    for row, number, task, kind_number, attempt, secret, *rest in rows:
        kind = memory.kind_numbered(kind_number)
        session = memory.sessions_by_row[row]
        batch, position, submitted_at, started_at, reply, predicted, payload, crashes = rest
        statistics = memory.statistics_of(kind)
        is_short = statistics.is_short and not crashes
        session.leases[number] = Running(
            number=number,
            id=task,
            kind=kind,
            attempt=attempt,
            secret=secret,
            batch=batch,
            position=position,
            submitted_at=submitted_at,
            started_at=started_at,
            reply=reply,
            predicted=predicted,
            is_short=is_short,
            high=statistics.price().p90 if is_short else 0.0,
            # What was told before the restart is not known: to count it as started is the safe way.
            phase="running",
        )
        if reply > session.seen:
            dealt = Dealt(number, task, kind, attempt, secret, payload or b"")
            session.unseen.append((reply, [dealt]))
        # Renewals, and with them the number, are written only now and then.
        session.number = max(session.number, reply)


def _arrange(memory: Memory) -> None:
    """Live sessions by name; ended ones wait for the first exchange of the one after them."""
    live = {s.worker: s for s in memory.sessions_by_row.values() if not s.is_over}
    for session in memory.sessions_by_row.values():
        if not session.is_over:
            memory.sessions[session.id] = session
        elif session.worker in live:
            live[session.worker].older.append(session)
