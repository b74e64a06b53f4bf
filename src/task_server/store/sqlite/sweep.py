"""T4, T9, T12 and T15: what time brings about."""

from __future__ import annotations

import msgspec

from task_server.protocol.tasks import Error
from task_server.store import transitions
from task_server.store.attempts import AttemptReport
from task_server.store.sqlite.change import (
    end_attempt,
    end_tasks,
    read_rows,
    write_change,
)
from task_server.store.sqlite.due import make_due
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import write_many
from task_server.store.sqlite.memory import FAILED_REQUEST, SERVER, Request, Session
from task_server.store.sqlite.sessions import lose, unpark_session
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change

LIMIT = 5000
"""Rows of one kind in one sweep; the next sweep goes on."""
WINDOWED = 100_000
"""Queued tasks kept in memory, all lanes together."""
FORGET_SECONDS = 3600.0
"""How long after its last lease ran out a silent session is kept."""


def sweep(group: Group) -> bool:
    """Do what is due, up to LIMIT tasks of each kind; True when there may be more."""
    _end_lost_sessions(group)
    counts = (_end_plain_leases(group), _expire_late(group), make_due(group, limit=LIMIT))
    write_lazily(group)
    _bound_windows(group)
    return max(counts) >= LIMIT or bool(group.memory.unfollowed)


def _end_lost_sessions(group: Group) -> None:
    memory = group.memory
    for session in list(memory.sessions_by_row.values()):
        if session.facts.is_plain or session.alive_until > group.now:
            continue
        unpark_session(group, session)
        lose(group, session, list(session.leases.values()))
        if session.alive_until < group.now - FORGET_SECONDS:
            _forget(group, session)


def _forget(group: Group, session: Session) -> None:
    """A worker that went away without a word: should it come back, it joins again."""
    group.connection.execute("UPDATE sessions SET is_over = 1 WHERE session = ?", (session.row,))
    group.memory.sessions.pop(session.id, None)
    del group.memory.sessions_by_row[session.row]


def _end_plain_leases(group: Group) -> int:
    numbers = _numbers(
        group,
        "SELECT number FROM task_extras WHERE leased_until <= ? LIMIT ?",
    )
    write_many(
        group.connection,
        "UPDATE task_extras SET leased_until = NULL FROM (VALUES {rows}) AS w"
        " WHERE task_extras.number = w.column1",
        [(number,) for number in numbers],
    )
    for row in read_rows(group, numbers):
        session = group.memory.sessions_by_row.get(row.session or 0)
        if row.state is not State.RUNNING or session is None or not session.facts.is_plain:
            continue
        change = transitions.crash(
            row.as_row(), was_delivered=True, policy=group.policy, jitter=group.jitter()
        )
        end_attempt(group, row, told=None, is_stopped=False)
        write_change(group, row, change)
    return len(numbers)


def _numbers(group: Group, select: str) -> list[int]:
    return [number for (number,) in group.connection.execute(select, (group.now, LIMIT))]


def _expire_late(group: Group) -> int:
    group.connection.execute(
        "UPDATE task_extras SET start_by = NULL WHERE start_by < ?"
        " AND number IN (SELECT t.number FROM tasks t WHERE t.number = task_extras.number"
        " AND t.state > 2)",
        (group.now,),
    )
    numbers = _numbers(
        group,
        # A running task has started; should it be given back, it is too late after all.
        "SELECT x.number FROM task_extras x JOIN tasks t USING (number)"
        " WHERE x.start_by < ? AND t.state IN (0, 1) LIMIT ?",
    )
    end_tasks(group, read_rows(group, numbers), Change(State.EXPIRED))
    return len(numbers)


def write_lazily(group: Group) -> None:
    """Keep what lives in memory between sweeps: sessions, owners' shares, speeds of workers."""
    _write_sessions(group)
    _write_shares(group)
    _write_speeds(group)


def _write_sessions(group: Group) -> None:
    dirty = [each for each in group.memory.sessions.values() if each.is_dirty]
    if dirty:
        write_many(
            group.connection,
            "UPDATE sessions SET alive_until = w.column2, number = w.column3, seen = w.column4"
            " FROM (VALUES {rows}) AS w WHERE sessions.session = w.column1",
            [(each.row, each.alive_until, each.number, each.seen) for each in dirty],
        )
        write_many(
            group.connection,
            "UPDATE workers SET seen_at = w.column2 FROM (VALUES {rows}) AS w"
            " WHERE workers.worker = w.column1",
            [(each.worker, group.now) for each in dirty],
        )
    for session in dirty:
        session.is_dirty = False


def _write_shares(group: Group) -> None:
    write_many(
        group.connection,
        "INSERT OR REPLACE INTO shares (owner, server, charged_seconds) VALUES {rows}",
        [(owner, SERVER, seconds) for owner, seconds in group.memory.shares.unsaved()],
    )


def _write_speeds(group: Group) -> None:
    placement = group.memory.placement
    learned = placement.unsaved()
    write_many(
        group.connection,
        "UPDATE workers SET runs = w.column2, slowness = w.column3 FROM (VALUES {rows}) AS w"
        " WHERE workers.worker = w.column1",
        learned,
    )
    placement.saved(learned)


def _bound_windows(group: Group) -> None:
    """Many lanes share the memory for the first tasks of each."""
    lanes = [group.memory.lanes[number] for number in group.memory.active]
    if sum(len(lane.window.entries) for lane in lanes) > WINDOWED:
        group.write_fresh()
        for lane in lanes:
            lane.window.trim(max(WINDOWED // len(lanes), 1))


# ---- environments


def locked(group: Group, text: str, *, environment: str, python: str, lock: str) -> None:
    """A request has its lock: its lanes can be leased from."""
    request = group.memory.requests.get(text)
    if request is None:
        return
    group.connection.execute(
        "INSERT OR IGNORE INTO environments (environment, python, lock, created_at)"
        " VALUES (?, ?, ?, ?)",
        (environment, python, lock, group.now),
    )
    group.connection.execute(
        "UPDATE environment_requests SET environment = ?, state = 1, error = NULL"
        " WHERE request = ?",
        (environment, request.number),
    )
    group.memory.remember_request(Request(request.number, text, request.python, environment, 1))


def lock_failed(group: Group, text: str, message: str) -> None:
    """T15: the lock failed for good, and so do the tasks that wait for it."""
    request = group.memory.requests.get(text)
    if request is None or request.environment is not None:
        return
    group.write_fresh()
    error = Error(kind="environment", type="EnvironmentError", message=message)
    report = AttemptReport(
        lease=None,
        outcome="failed",
        encoding=Encoding.ERROR,
        answer=msgspec.json.encode(error),
        error_kind="environment",
    )
    numbers = group.connection.execute(
        # In this order: SQLite would pass all queued tasks to find those of a few lanes.
        "SELECT t.number FROM lanes l CROSS JOIN tasks t USING (lane)"
        " WHERE l.request = ? AND t.state = 0"
        # Delayed tasks have no index of their lanes; their times have.
        " UNION ALL SELECT t.number FROM task_extras x JOIN tasks t USING (number)"
        " JOIN lanes l USING (lane)"
        " WHERE x.delayed_until IS NOT NULL AND t.state = 1 AND l.request = ?"
        " UNION ALL SELECT t.number FROM task_extras x JOIN tasks t USING (number)"
        " JOIN lanes l USING (lane) WHERE x.pending > 0 AND t.state = 1 AND l.request = ?",
        (request.number, request.number, request.number),
    ).fetchall()
    rows = read_rows(group, (number for (number,) in numbers))
    end_tasks(group, rows, Change(State.FAILED, kind="environment"), report=report)
    # A later submit of the same request tries the lock again: the index may have it by then.
    group.connection.execute(
        "UPDATE environment_requests SET state = 2, error = ? WHERE request = ?",
        (message, request.number),
    )
    group.memory.remember_request(
        Request(request.number, text, request.python, None, FAILED_REQUEST)
    )
