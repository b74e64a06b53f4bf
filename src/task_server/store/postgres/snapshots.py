"""What a server knows without asking, and the fleet and the queue as the database has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from task_server.scheduling.statistics import Statistics
from task_server.store.kinds import FunctionKey, Kind
from task_server.store.postgres.connection import Readers
from task_server.store.postgres.known import know_kinds
from task_server.store.postgres.memory import Memory
from task_server.store.postgres.session import facts_of
from task_server.store.records.sql import Rows
from task_server.store.sessions import LiveSession

_SESSIONS = """
SELECT s.worker, w.facts,
       (SELECT count(*) FROM tasks t WHERE t.session = s.session AND t.state = 2),
       e.environments, e.states, w.id
  FROM sessions s JOIN workers w ON w.worker = s.worker
 CROSS JOIN LATERAL (
   SELECT array_agg(x.environment) AS environments, array_agg(x.state) AS states
     FROM worker_environments x WHERE x.worker = s.worker) e
 WHERE s.is_over = 0 AND (s.alive_until > ? OR s.is_plain = 1
       AND EXISTS (SELECT FROM tasks t WHERE t.session = s.session AND t.state = 2))"""
_QUEUED = """
SELECT l.kind, sum(l.queued)::bigint
  FROM kind_load l JOIN kinds k ON k.kind = l.kind
 WHERE k.owner = ? OR ?
 GROUP BY l.kind HAVING sum(l.queued) > 0"""
_RUNNING = """
SELECT t.kind, t.started_at
  FROM tasks t JOIN kinds k ON k.kind = t.kind
 WHERE t.state = 2 AND (k.owner = ? OR ?)"""


class Snapshots:
    """Mixed into the store."""

    memory: Memory
    _readers: Readers
    _clock: Callable[[], float]

    def statistics(self, key: FunctionKey) -> Statistics | None:
        """See `Store.statistics`."""
        return self.memory.functions.get(key)

    def functions(self) -> list[tuple[FunctionKey, Statistics]]:
        """See `Store.functions`."""
        return list(self.memory.functions.items())

    def statistics_of(self, kind: Kind) -> Statistics:
        """See `Store.statistics_of`."""
        return self.memory.statistics_of(kind)

    def called_by(self, owner: int) -> list[Statistics]:
        """See `Store.called_by`."""
        kinds = self.memory.kinds.values()
        numbers = {kind.function for kind in kinds if kind.spec.owner == owner}
        return [self.memory.functions_by_number[number] for number in numbers]

    def knows_request(self, text: str) -> bool:
        """See `Store.knows_request`."""
        return text in self.memory.requests

    def environment_of(self, request: str) -> str | None:
        """See `Store.environment_of`."""
        known = self.memory.requests.get(request)
        return None if known is None else known.environment

    def charged(self) -> dict[int, float]:
        """See `Store.charged`."""
        return dict(self.memory.shares.charged)

    def awaited_build(self, environment: str | None, *, now: float) -> float | None:
        """See `Store.awaited_build`."""
        return self.memory.placement.awaited_build(environment, now=now)

    def phase(self, number: int) -> str:
        """See `Store.phase`."""
        for phases in self.memory.phases.values():
            if number in phases:
                return phases[number]
        return "leased"

    async def sessions(self) -> list[LiveSession]:
        """See `Store.sessions`."""
        now = self._clock()
        rows = await self._readers.read(lambda rows: rows.fetch(_SESSIONS, now))
        return [
            LiveSession(
                worker,
                facts_of(facts),
                dict(zip(environments or (), states or (), strict=True)),
                running,
                identifier,
            )
            for worker, facts, running, environments, states, identifier in rows
        ]

    async def queued(self, owner: int | None) -> list[tuple[Kind, int]]:
        """See `Store.queued`."""
        return await self._readers.read(lambda rows: self._by_kind(rows, _QUEUED, owner))

    async def running(self, owner: int | None) -> list[tuple[Kind, float]]:
        """See `Store.running`."""
        return await self._readers.read(lambda rows: self._by_kind(rows, _RUNNING, owner))

    async def _by_kind(self, rows: Rows, sql: str, owner: int | None) -> list[tuple[Kind, Any]]:
        found = await rows.fetch(sql, owner, owner is None)
        await know_kinds(rows, self.memory, {kind for kind, _ in found})
        kinds = self.memory.kinds
        return [(kinds[kind], value) for kind, value in found if kind in kinds]
