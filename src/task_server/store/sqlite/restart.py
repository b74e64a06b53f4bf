"""What a server that starts finds: running tasks and the sessions that hold them."""

from __future__ import annotations

import msgspec

from task_server.scheduling.lanes import Window
from task_server.scheduling.timeouts import RunLimit
from task_server.store.attempts import Dealt
from task_server.store.kinds import AUTO
from task_server.store.sessions import WorkerFacts
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import Memory, Running, Session
from task_server.store.transitions import Policy

LONGEST_BACKOFF = 3600.0
"""Seconds; a retry waits no longer (`transitions.retry_wait`)."""
LONGEST_LOCK_WAIT = 60.0


def restore_sessions(memory: Memory, *, now: float, lease_seconds: float) -> None:
    """Bring back sessions and their leases, each session with a full new term.

    A server that was away cannot tell a silent worker from one that found no server.
    """
    _read_sessions(memory)
    _read_running(memory)
    _extend_sessions(memory, until=now + lease_seconds)
    _arrange(memory)


def extend_leases(memory: Memory, *, now: float, lease_seconds: float) -> None:
    """A server starts: every lease lasts at least a full term from `now`.

    The clock may have been set back meanwhile: no moment lies further ahead than it can.
    """
    _bring_back(memory, now=now)
    if _latest(memory, lease_seconds) > now:
        _bring_back_queue(memory, now=now)
    _extend_plain(memory, until=now + lease_seconds)


def follow_clock(group: Group, *, by: float) -> None:
    """The clock was set by so many seconds while this server runs."""
    memory, until = group.memory, group.now + group.lease_seconds
    group.begin()
    group.write_fresh()
    _extend_sessions(memory, until=until)
    if by > 0:
        memory.connection.execute(
            "UPDATE task_extras SET leased_until = leased_until + ? WHERE leased_until IS NOT NULL"
            # A lease that was given since the clock was set goes by the new time already.
            " AND number IN (SELECT number FROM tasks WHERE state = 2 AND started_at < ?)",
            (by, group.now - by / 2),
        )
    else:
        memory.connection.execute(
            "UPDATE task_extras SET delayed_until = delayed_until + ? WHERE delayed_until > ?"
            # A task's own time is a moment that its owner named.
            " AND delayed_until IS NOT run_after",
            (by, group.now),
        )
        _bring_back_queue(memory, now=group.now)
    _bring_back(memory, now=group.now)
    _extend_plain(memory, until=until)


def _extend_sessions(memory: Memory, *, until: float) -> None:
    for session in memory.sessions_by_row.values():
        session.alive_until = until
        session.is_dirty = True


def _extend_plain(memory: Memory, *, until: float) -> None:
    memory.connection.execute(
        "UPDATE task_extras SET leased_until = ? WHERE leased_until < ?", (until, until)
    )


def _bring_back(memory: Memory, *, now: float) -> None:
    """Moments that lie further ahead than they can come from before the clock was set back."""
    one = memory.connection.execute
    one(
        "UPDATE task_extras SET leased_until = ? + leased_until - t.started_at FROM tasks t"
        " WHERE leased_until IS NOT NULL AND t.number = task_extras.number AND t.state = 2"
        " AND t.started_at > ?",
        (now, now),
    )
    one(
        "UPDATE task_extras SET delayed_until = ? WHERE delayed_until > ?"
        " AND delayed_until IS NOT run_after",
        (now + LONGEST_BACKOFF, now + LONGEST_BACKOFF),
    )
    one(
        "UPDATE environment_requests SET try_at = ? WHERE state = 0 AND try_at > ?",
        (now, now + LONGEST_LOCK_WAIT),
    )
    longest = now + Policy().exclusion_seconds
    memory.broken = {pair: min(until, longest) for pair, until in memory.broken.items()}


def _latest(memory: Memory, lease_seconds: float) -> float:
    """The last moment that somebody submitted or renewed, more or less."""
    ((latest,),) = memory.connection.execute(
        "SELECT max((SELECT ifnull(max(alive_until), 0.0) FROM sessions) - ?,"
        " ifnull((SELECT submitted_at FROM tasks ORDER BY number DESC LIMIT 1), 0.0))",
        (lease_seconds,),
    )
    return float(latest)


def _bring_back_queue(memory: Memory, *, now: float) -> None:
    """What waited before the clock was set back stays ahead of what comes now.

    Reads each task that is not due yet: 1.6 s for a million of long ones.
    """
    changed = memory.connection.execute(
        "UPDATE tasks SET due_at = due_at - (ready_at - ?), ready_at = ?"
        " WHERE state = 0 AND lane IN (SELECT lane FROM lanes) AND due_at > ? AND ready_at > ?",
        (now, now, now, now),
    )
    if changed.rowcount:
        for lane in memory.lanes.values():
            lane.window = Window(is_complete=lane.number not in memory.active)


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
        " t.submitted_at, t.started_at, t.reply, t.predicted, t.predicted_high,"
        " ifnull(t.payload, p.data), ifnull(x.crashes, 0), x.limit_seconds,"
        " x.limit_why"
        " FROM tasks t LEFT JOIN payloads p ON p.number = t.number AND p.part = 0"
        " LEFT JOIN task_extras x ON x.number = t.number"
        " WHERE t.state = 2 ORDER BY t.reply, t.number"
    ).fetchall()
    for row, number, task, kind_number, attempt, secret, *rest in rows:
        kind = memory.kind_numbered(kind_number)
        session = memory.sessions_by_row[row]
        batch, position, submitted_at, started_at, reply, *estimate = rest[:-4]
        payload, crashes, *limit = rest[-4:]
        statistics = memory.statistics_of(kind)
        requires = memory.lanes[kind.lane].requires
        has_slot_alone = crashes or (requires is not None and requires.takes)
        is_short = statistics.is_short and not has_slot_alone
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
            predicted=estimate[0],
            predicted_high=estimate[1],
            is_short=is_short,
            high=statistics.price().p90 if is_short else 0.0,
            requires=requires,
            # What was told before the restart is not known: to count it as started is the safe way.
            phase="running",
        )
        if reply > session.seen:
            dealt = Dealt(number, task, kind, attempt, secret, payload or b"")
            if kind.spec.timeout == AUTO:
                dealt.limit = RunLimit(*limit)
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
