"""Sessions begin: an agent's with its join, a plain worker's with its first request."""

from __future__ import annotations

from typing import Any

import msgspec

from task_server.store.postgres.group import Group
from task_server.store.postgres.memory import Memory
from task_server.store.postgres.submit import check_text
from task_server.store.sessions import JoinRequest, WorkerFacts

# Locked: of two joins of one worker at two servers the later one ends the earlier one's session.
_FIND = """
SELECT worker FROM workers w WHERE id = $1 AND token = $2
-- A plain worker's row is its token's, not one to join as.
   AND NOT EXISTS (SELECT FROM sessions s
                    WHERE s.worker = w.worker AND s.is_over + 0 = 0 AND s.is_plain = 1)
   FOR UPDATE"""
_UPDATE = """
UPDATE workers SET name = $2, facts = $3, joined_at = $4, seen_at = $4 WHERE worker = $1"""
_INSERT = """
INSERT INTO workers (id, token, name, facts, joined_at, seen_at) VALUES ($1, $2, $3, $4, $5, $5)
ON CONFLICT (id) DO UPDATE SET id = excluded.id
RETURNING worker"""
_SUPERSEDE = """
UPDATE sessions SET is_over = 1
 WHERE worker = $1 AND is_over = 0 AND is_plain = 0 AND id <> $2
RETURNING session"""
_BEGIN = """
INSERT INTO sessions (id, worker, is_plain, alive_until, number, seen)
VALUES ($1, $2, $3, $4, 0, 0)
ON CONFLICT (id) DO NOTHING"""
_FORGET_ENVIRONMENTS = """
DELETE FROM worker_environments WHERE worker = $1 AND broken_until IS NULL"""


async def join(group: Group, request: JoinRequest, new_worker: str) -> str:
    """Begin a session; the older ones of that worker are over. `new_worker`: an id, if need be."""
    check_text(request.facts.name, "name")
    group.is_durable = True
    worker, worker_id = await _worker(group, request, new_worker)
    ended = await group.fetch(_SUPERSEDE, worker, request.session)
    group.told.update(session for (session,) in ended)
    await group.execute(_FORGET_ENVIRONMENTS, worker)
    alive_until = group.now + group.lease_seconds
    await group.execute(_BEGIN, request.session, worker, 0, alive_until)
    return worker_id


async def _worker(group: Group, request: JoinRequest, new_worker: str) -> tuple[int, str]:
    facts = msgspec.msgpack.encode(request.facts)
    name = (request.worker or "").replace("\0", "")
    found = await group.fetch(_FIND, name, request.token)
    if found:
        worker = int(found[0][0])
        await group.execute(_UPDATE, worker, request.facts.name, facts, group.now)
        return worker, name
    values = (new_worker, request.token, request.facts.name, facts, group.now)
    made = await group.fetch(_INSERT, *values)
    return int(made[0][0]), new_worker


async def know_plain(connection: Any, memory: Memory, token: int, *, now: float) -> None:
    """Have the one session of a plain worker's token stored and in memory; it never ends."""
    if token in memory.plain:
        return
    name = f"plain-{token}"
    facts = msgspec.msgpack.encode(WorkerFacts(name=name, slots=0, is_plain=True))
    worker = await connection.fetchval(_INSERT, name, token, name, facts, now)
    await connection.execute(_BEGIN, name, worker, 1, now)
    session = await connection.fetchval("SELECT session FROM sessions WHERE id = $1", name)
    memory.plain[token] = (session, worker)
