"""Which parked worker comes first, and which environments it leaves to others."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from task_server.scheduling.deal import Room
from task_server.scheduling.lanes import Lane
from task_server.scheduling.placement import likely_end
from task_server.store.postgres.group import Group
from task_server.store.postgres.memory import Memory, Queued, Waiter, Warm, WarmWorkers

KNOWN_SECONDS = 1.0
"""How long what is known of the workers that have an environment is used."""

# How many tasks each has, and which of them is likely to end first.
_WARM = """
SELECT e.environment, s.worker, h.started_at, h.predicted
  FROM worker_environments e
 CROSS JOIN LATERAL (
    SELECT worker, session FROM sessions
     WHERE worker = e.worker AND is_over + 0 = 0 AND is_plain = 0 AND alive_until > $2 OFFSET 0) s
  LEFT JOIN LATERAL (
    SELECT t.started_at, t.predicted FROM tasks t WHERE t.session = s.session AND t.state = 2
     ORDER BY t.started_at + abs(t.predicted) LIMIT 1) h ON true
 WHERE e.environment = ANY($1::text[]) AND e.state = 'ready'
   AND (e.broken_until IS NULL OR e.broken_until < $2)"""


def fastest_first(
    memory: Memory, rooms: Mapping[Waiter, Room[Queued]]
) -> dict[Waiter, Room[Queued]]:
    """Workers in the order in which they are dealt to."""
    rank = memory.placement.rank
    return dict(sorted(rooms.items(), key=lambda each: rank(each[0].worker)))


async def know_warm(group: Group, environments: Iterable[str | None]) -> None:
    """Have at hand who has those environments that are worth waiting for."""
    memory = group.memory
    costly = memory.placement.costly(environments)
    known = memory.warm
    if not costly or (group.now < known.until and costly <= known.environments):
        return
    found: dict[str, list[Warm]] = {each: [] for each in costly}
    for environment, *warm in await group.fetch(_WARM, sorted(costly), group.now):
        found[environment].append(Warm(*warm))
    memory.warm = WarmWorkers(group.now + KNOWN_SECONDS, frozenset(costly), found)


def leave_to_warm(
    group: Group, rooms: Mapping[Waiter, Room[Queued]], lanes: Collection[Lane[Queued]]
) -> None:
    """Have workers build no environments now that one has who is free soon."""
    memory = group.memory
    for environment in memory.placement.costly(lane.environment for lane in lanes):
        warm = memory.warm.found.get(environment, [])
        has_it = {each.worker for each in warm}
        cold = [each for each in rooms if not each.facts.is_plain and each.worker not in has_it]
        heads = [
            lane.window.entries[0]
            for lane in lanes
            if lane.environment == environment and lane.window.entries
        ]
        if not cold or not heads:
            continue
        parked = {each.worker for each in rooms}
        if memory.placement.leaves_to_warm(
            environment,
            due_at=min(head.due_at for head in heads),
            now=group.now,
            free_at=min((_room_at(each, parked, group.now) for each in warm), default=None),
        ):
            for waiter in cold:
                rooms[waiter].broken |= {environment}


def _room_at(warm: Warm, parked: Collection[int], now: float) -> float:
    if warm.worker in parked or warm.started_at is None or warm.predicted is None:
        return now
    return likely_end(started_at=warm.started_at, predicted=warm.predicted, now=now)
