"""What the server on a SQLite file has in memory, as others may see it."""

from __future__ import annotations

from collections.abc import Callable

from task_server.scheduling.statistics import Statistics
from task_server.store.kinds import FunctionKey, Kind
from task_server.store.sessions import LiveSession
from task_server.store.sqlite.memory import Memory


class Snapshots:
    """Mixed into the store. The writer changes the memory meanwhile: lists are copied first."""

    memory: Memory
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
        kinds = list(self.memory.kinds.values())
        numbers = {kind.function for kind in kinds if kind.spec.owner == owner}
        return [self.memory.functions_by_number[number] for number in numbers]

    def knows_request(self, text: str) -> bool:
        """See `Store.knows_request`."""
        return text in self.memory.requests

    def environment_of(self, request: str) -> str | None:
        """See `Store.environment_of`."""
        return self.memory.requests[request].environment

    def charged(self) -> dict[int, float]:
        """See `Store.charged`."""
        return dict(self.memory.shares.charged)

    def awaited_build(self, environment: str | None, *, now: float) -> float | None:
        """See `Store.awaited_build`."""
        return self.memory.placement.awaited_build(environment, now=now)

    def phase(self, number: int) -> str:
        """See `Store.phase`."""
        for session in list(self.memory.sessions_by_row.values()):
            running = session.leases.get(number)
            if running is not None:
                return running.phase
        return "leased"

    async def sessions(self) -> list[LiveSession]:
        """See `Store.sessions`."""
        now = self._clock()
        return [
            LiveSession(
                each.worker, each.facts, each.environments, len(each.leases), each.worker_id
            )
            for each in list(self.memory.sessions.values())
            if each.alive_until > now or (each.facts.is_plain and each.leases)
        ]

    async def queued(self, owner: int | None) -> list[tuple[Kind, int]]:
        """See `Store.queued`."""
        found = []
        for number, count in list(self.memory.load.items()):
            kind = self.memory.kinds.get(number)
            if kind is not None and count > 0 and owner in (None, kind.spec.owner):
                found.append((kind, count))
        return found

    async def running(self, owner: int | None) -> list[tuple[Kind, float]]:
        """See `Store.running`."""
        return [
            (running.kind, running.started_at)
            for session in list(self.memory.sessions_by_row.values())
            for running in list(session.leases.values())
            if owner in (None, running.kind.spec.owner)
        ]
