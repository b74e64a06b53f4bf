"""Which parked worker comes first, and which environments it leaves to others."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.lanes import Lane
from task_server.scheduling.placement import likely_end
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import Memory, Queued, Session, Waiter

LANES = 256
"""Of more lanes, the others go to whoever has room."""


def fastest_first(memory: Memory, waiting: list[Waiter]) -> list[Waiter]:
    """Workers in the order in which they are dealt to."""
    if len(waiting) < 2:
        return waiting
    return sorted(waiting, key=lambda waiter: memory.placement.rank(waiter.session.worker))


def left_to_warm(
    group: Group, waiting: Sequence[Waiter], lanes: Sequence[Lane[Queued]]
) -> dict[Waiter, frozenset[str]]:
    """Environments that a worker does not build now: one that has them is free soon."""
    memory = group.memory
    costly = memory.placement.costly(lane.environment for lane in lanes[:LANES])
    found: dict[Waiter, frozenset[str]] = {}
    for environment in costly:
        cold = [each for each in waiting if not _is_warm(each.session, environment)]
        if not cold:
            continue
        heads = [lane.window.entries[0] for lane in lanes if lane.environment == environment]
        if memory.placement.leaves_to_warm(
            environment,
            due_at=min(head.due_at for head in heads),
            now=group.now,
            free_at=_free_at(group, environment),
        ):
            for waiter in cold:
                found[waiter] = found.get(waiter, frozenset()) | {environment}
    return found


def _is_warm(session: Session, environment: str) -> bool:
    # A plain worker cares for its environments itself.
    return session.facts.is_plain or session.environments.get(environment) == "ready"


def _free_at(group: Group, environment: str) -> float | None:
    """When the first worker that has it is likely to have room; None: none has it."""
    moments = [
        _room_at(session, group.now)
        for session in group.memory.sessions.values()
        if not session.facts.is_plain
        and session.environments.get(environment) == "ready"
        and (session.worker, environment) not in group.memory.broken
    ]
    return min(moments, default=None)


def _room_at(session: Session, now: float) -> float:
    if len(session.leases) < session.facts.slots:
        return now
    return min(
        likely_end(started_at=each.started_at, predicted=each.predicted, now=now)
        for each in session.leases.values()
    )
