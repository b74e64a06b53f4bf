"""T4, T9, T12 and T15: what time brings about, done by the leader alone, for all servers."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from task_server.protocol.tasks import Error
from task_server.store import transitions
from task_server.store.attempts import AttemptReport
from task_server.store.postgres.change import Changes, FullRow, lock_numbers, read_locked
from task_server.store.postgres.dependencies import take_up
from task_server.store.postgres.due import make_due
from task_server.store.postgres.group import Group
from task_server.store.postgres.held import lose
from task_server.store.postgres.memory import FAILED, LOCKED, Request
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change

LIMIT = 5000
"""Rows of one kind in one sweep; the next sweep goes on."""
FORGET_SECONDS = 3600.0
"""How long after its last lease ran out a silent session is kept."""

# Sessions that hold something, one step in the index each.
_SILENT = """
WITH RECURSIVE holders(session) AS (
  (SELECT min(session) FROM tasks WHERE state = 2)
  UNION ALL
  SELECT (SELECT min(t.session) FROM tasks t WHERE t.state = 2 AND t.session > h.session)
    FROM holders h WHERE h.session IS NOT NULL)
SELECT t.number
  FROM holders h
 CROSS JOIN LATERAL (
   SELECT y.session, y.is_plain, y.alive_until FROM sessions y WHERE y.session = h.session
   OFFSET 0) s
 CROSS JOIN LATERAL (
   SELECT x.number FROM tasks x WHERE x.session = s.session AND x.state = 2 OFFSET 0) t
 WHERE s.is_plain = 0 AND s.alive_until <= $1
 LIMIT $2"""
# The deadline is read with the lock: a session that speaks just now is passed.
_LOST = """
SELECT t.number
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number AND t.state + 0 = 2
  JOIN sessions s ON s.session = t.session AND s.is_plain = 0 AND s.alive_until <= $2
 ORDER BY t.number + 0
   FOR UPDATE OF t, s SKIP LOCKED"""
_FORGET = """
UPDATE sessions SET is_over = 1 WHERE is_over = 0 AND is_plain = 0 AND alive_until < $1
RETURNING session"""
_SEEN = """
UPDATE workers w SET seen_at = s.alive_until - $1
  FROM sessions s
 WHERE s.is_over = 0 AND s.is_plain = 0 AND s.worker = w.worker
   AND w.seen_at < s.alive_until - $1 - 1"""
_PLAIN_ENDS = "SELECT number FROM task_extras WHERE leased_until <= $1 LIMIT $2"
_PLAIN = """
SELECT t.number
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number AND t.state + 0 = 2
  JOIN task_extras x ON x.number = t.number AND x.leased_until <= $2
  JOIN sessions s ON s.session = t.session AND s.is_plain = 1
 ORDER BY t.number + 0
   FOR UPDATE OF t SKIP LOCKED"""
_LATE = """
SELECT x.number
  FROM task_extras x
 CROSS JOIN LATERAL (SELECT y.state FROM tasks y WHERE y.number = x.number OFFSET 0) t
-- A running task has started; should it be given back, it is too late after all.
 WHERE x.start_by < $1 AND t.state IN (0, 1)
 LIMIT $2"""
_WAITING = """
SELECT t.number
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number AND t.state + 0 IN (0, 1)
 ORDER BY t.number + 0
   FOR UPDATE OF t SKIP LOCKED"""
_STARTED = """
UPDATE task_extras x SET start_by = NULL
 WHERE x.start_by < $1 AND (SELECT t.state FROM tasks t WHERE t.number = x.number) > 2"""
_DUE = "SELECT number FROM task_extras WHERE delayed_until <= $1 LIMIT $2"
_REQUEST = """
SELECT request, text, python, environment, state FROM environment_requests
 WHERE text = $1 FOR UPDATE"""
_KEEP_LOCK = """
INSERT INTO environments (environment, python, lock, created_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (environment) DO NOTHING"""
_LOCKED = """
UPDATE environment_requests SET environment = $2, state = 1, error = NULL WHERE request = $1"""
_FAILED = "UPDATE environment_requests SET state = 2, error = $2 WHERE request = $1"
_OF_REQUEST = """
SELECT number FROM (
  SELECT t.number
    FROM lanes l
   CROSS JOIN LATERAL (
     SELECT x.number FROM tasks x WHERE x.lane = l.lane AND x.state = 0 OFFSET 0) t
   WHERE l.request = $1
  UNION ALL
  -- Delayed tasks have no index of their lanes; what they wait for has.
  SELECT x.number
    FROM (SELECT number FROM task_extras WHERE delayed_until IS NOT NULL
          UNION ALL SELECT number FROM task_extras WHERE pending > 0) x
   CROSS JOIN LATERAL (
     SELECT y.lane, y.state FROM tasks y WHERE y.number = x.number OFFSET 0) t
    JOIN lanes l ON l.lane = t.lane AND l.request = $1
   WHERE t.state = 1) AS waiting
 LIMIT $2"""
_LANES_OF = "SELECT lane FROM lanes WHERE request = $1"


async def sweep(group: Group) -> bool:
    """Do what is due, up to LIMIT tasks of each kind; True when there may be more."""
    counts = (
        await _end_lost_sessions(group),
        await _end_plain_leases(group),
        await _expire_late(group),
        await _make_due(group),
    )
    return await take_up(group) or max(counts) >= LIMIT


async def _numbers(group: Group, look: str, lock: str, *values: object) -> list[int]:
    """What is due, as far as nobody else works on it: locked, ascending."""
    found = [number for (number,) in await group.fetch(look, group.now, LIMIT)]
    if not found:
        return []
    return [number for (number,) in await group.fetch(lock, found, *values)]


async def _make_due(group: Group) -> int:
    numbers = await _numbers(group, _DUE, _WAITING)
    await make_due(group, numbers)
    return len(numbers)


async def _end_lost_sessions(group: Group) -> int:
    numbers = await _numbers(group, _SILENT, _LOST, group.now)
    await lose(group, await read_locked(group, numbers))
    # A worker that went away without a word: should it come back, it joins again.
    forgotten = await group.fetch(_FORGET, group.now - FORGET_SECONDS)
    group.told.update(session for (session,) in forgotten)
    await group.execute(_SEEN, group.lease_seconds)
    return len(numbers)


async def _end_plain_leases(group: Group) -> int:
    numbers = await _numbers(group, _PLAIN_ENDS, _PLAIN, group.now)
    changes = Changes(group)
    for row in await read_locked(group, numbers):
        change = transitions.crash(
            row.as_row(), was_delivered=True, policy=group.policy, jitter=group.jitter()
        )
        changes.end_attempt(row)
        changes.apply(row, change)
    await changes.write()
    return len(numbers)


async def _expire_late(group: Group) -> int:
    await group.execute(_STARTED, group.now)
    numbers = await _numbers(group, _LATE, _WAITING)
    await _end(group, await read_locked(group, numbers), Change(State.EXPIRED))
    return len(numbers)


async def _end(
    group: Group, rows: Sequence[FullRow], change: Change, report: AttemptReport | None = None
) -> None:
    changes = Changes(group)
    for row in rows:
        changes.apply(row, change, report)
    await changes.write()


# ---- environments


async def locked(group: Group, text: str, *, environment: str, python: str, lock: str) -> None:
    """A request has its lock: its lanes can be leased from."""
    request = await _request(group, text)
    if request is None:
        return
    group.is_durable = True
    await group.execute(_KEEP_LOCK, environment, python, lock, group.now)
    await group.execute(_LOCKED, request.number, environment)
    group.requests.append(Request(request.number, text, request.python, environment, LOCKED))
    for (lane,) in await group.fetch(_LANES_OF, request.number):
        group.queue(lane, float("-inf"))


async def lock_failed(group: Group, text: str, message: str) -> bool:
    """T15: the lock failed for good, and so do the tasks that wait for it; True: there are more."""
    request = await _request(group, text)
    if request is None or request.environment is not None:
        return False
    group.is_durable = True
    # A later submit of the same request tries the lock again: the index may have it by then.
    await group.execute(_FAILED, request.number, message)
    group.requests.append(Request(request.number, text, request.python, None, FAILED))
    numbers = [number for (number,) in await group.fetch(_OF_REQUEST, request.number, LIMIT)]
    rows = await read_locked(group, await lock_numbers(group, numbers))
    waiting = [row for row in rows if row.state in (State.QUEUED, State.DELAYED)]
    await _end(group, waiting, Change(State.FAILED, kind="environment"), _no_lock(message))
    return len(numbers) >= LIMIT


async def _request(group: Group, text: str) -> Request | None:
    found = await group.fetch(_REQUEST, text)
    return Request(*found[0]) if found else None


def _no_lock(message: str) -> AttemptReport:
    error = Error(kind="environment", type="EnvironmentError", message=message)
    return AttemptReport(
        lease=None,
        outcome="failed",
        encoding=Encoding.ERROR,
        answer=msgspec.json.encode(error),
        error_kind="environment",
    )
