"""Every lease a full new term: workers had no way to renew, or the clock was set."""

from __future__ import annotations

from task_server.store.postgres.group import Group

LONGEST_BACKOFF = 3600.0
"""Seconds; a retry waits no longer (`transitions.retry_wait`)."""
LONGEST_LOCK_WAIT = 60.0

_SESSIONS = """
UPDATE sessions SET alive_until = $1
 WHERE session IN (
   SELECT s.session FROM sessions s
    WHERE s.is_plain = 0
      AND (s.is_over = 0
           OR EXISTS (SELECT FROM tasks t WHERE t.session = s.session AND t.state = 2))
    ORDER BY s.session FOR UPDATE)"""
_PLAIN = "UPDATE task_extras SET leased_until = $1 WHERE leased_until < $1"
_AHEAD = """
UPDATE task_extras x SET leased_until = leased_until + $1
  FROM tasks t
-- A lease that was given since the clock was set goes by the new time already.
 WHERE x.leased_until IS NOT NULL AND t.number = x.number AND t.state + 0 = 2
   AND t.started_at < $2"""
_BACK = """
UPDATE task_extras SET delayed_until = delayed_until + $1
-- A task's own time is a moment that its owner named.
 WHERE delayed_until > $2 AND delayed_until IS DISTINCT FROM run_after"""
_PLAIN_BACK = """
UPDATE task_extras x SET leased_until = $1 + x.leased_until - t.started_at
  FROM tasks t
 WHERE x.leased_until IS NOT NULL AND t.number = x.number AND t.state + 0 = 2
   AND t.started_at > $1"""
_DELAYED_BACK = """
UPDATE task_extras SET delayed_until = $1
 WHERE delayed_until > $1 AND delayed_until IS DISTINCT FROM run_after"""
_LOCKS_BACK = "UPDATE environment_requests SET try_at = $1 WHERE state = 0 AND try_at > $2"
_BROKEN_BACK = "UPDATE worker_environments SET broken_until = $1 WHERE broken_until > $1"
_LATEST = """
SELECT greatest((SELECT max(alive_until) FROM sessions) - $1::float8,
                (SELECT submitted_at FROM tasks ORDER BY number DESC LIMIT 1))"""
# Reads each task that is not due yet.
_QUEUE_BACK = """
UPDATE tasks t SET due_at = due_at - (ready_at - $1), ready_at = $1
 WHERE state = 0 AND lane IN (SELECT lane FROM lanes) AND due_at > $1 AND ready_at > $1"""


async def extend_leases(group: Group, *, by: float) -> None:
    """None ends early, and nothing waits for a moment that lies further ahead than it did.

    `by`: seconds by which the clock was set ahead or (negative) back; 0 where that is not known.
    """
    group.is_durable = True
    now, until = group.now, group.now + group.lease_seconds
    latest = await group.connection.fetchval(_LATEST, group.lease_seconds)
    await group.execute(_SESSIONS, until)
    if by > 0:
        await group.execute(_AHEAD, by, now - by / 2)
    elif by < 0:
        await group.execute(_BACK, by, now)
    await _bring_back(group, now)
    # What waited before the clock was set back stays ahead of what comes now.
    if (by < 0 or (latest or 0.0) > now) and await group.execute(_QUEUE_BACK, now):
        group.on_commit.append(group.memory.hints.clear)
    await group.execute(_PLAIN, until)


async def _bring_back(group: Group, now: float) -> None:
    """Moments that lie further ahead than they can come from before the clock was set back."""
    await group.execute(_PLAIN_BACK, now)
    await group.execute(_DELAYED_BACK, now + LONGEST_BACKOFF)
    await group.execute(_LOCKS_BACK, now, now + LONGEST_LOCK_WAIT)
    longest = now + group.policy.exclusion_seconds
    await group.execute(_BROKEN_BACK, longest)
    memory = group.memory
    group.on_commit.append(
        lambda: memory.broken.update(
            {pair: min(until, longest) for pair, until in memory.broken.items()}
        )
    )
