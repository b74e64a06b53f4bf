"""Those who wait here for tasks: how they come, and how they hear of what happens elsewhere."""

from __future__ import annotations

from task_server.store.attempts import LeaseKey
from task_server.store.postgres.group import Group
from task_server.store.postgres.memory import Waiter
from task_server.store.postgres.session import Session
from task_server.store.sessions import PLAIN_SECONDS, ExchangeResult, WorkerFacts

_STOPS = "DELETE FROM stops WHERE session = ANY($1::bigint[]) RETURNING session, lease, why"
_ALIVE = """
-- Not each time; in one order, as others may do the same.
UPDATE sessions s SET alive_until = $2
  FROM (SELECT session FROM sessions
         WHERE session = ANY($1::bigint[]) AND alive_until < $2::float8 - 20
         ORDER BY session FOR UPDATE) w
 WHERE s.session = w.session"""
_PARKED = """
SELECT s.session, s.is_over = 1 OR s.number <> w.number
  FROM unnest($1::bigint[], $2::bigint[]) AS w(session, number)
  JOIN sessions s ON s.session = w.session
 ORDER BY s.session FOR UPDATE OF s SKIP LOCKED"""


def park(group: Group, session: Session, result: ExchangeResult) -> None:
    """Park an exchange, in the place of the one before."""
    request, parking = session.request, session.parking
    is_asking = not request.draining and not parking.is_gone
    waiter = Waiter(
        session.session,
        session.worker,
        session.facts,
        parking,
        number=request.number,
        want=max(request.want - len(result.tasks), 0) if is_asking else 0,
        result=result,
    )
    group.parking[session.session] = waiter
    memory = group.memory
    if session.number and memory.spoken.get(session.session) != session.number:
        group.told.add(session.session)  # its last exchange may be parked at another server
    group.on_commit.append(
        lambda: memory.spoken.update({session.session: max(session.number, request.number)})
    )
    older = group.memory.waiters.get(session.session)
    if older is not None:
        group.ending[older] = None
    is_told = bool(result.decisions) and not request.is_patient
    if parking.is_over or is_told or result.tasks or result.stop:
        group.ending[waiter] = None
    if request.held is not None:
        phases: dict[int, str] = {
            key.number: each.phase
            for each in request.held
            if (key := LeaseKey.parse(each.lease)) is not None and each.phase != "leased"
        }
        group.on_commit.append(lambda: memory.phases.update({session.session: phases}))


async def park_plain(group: Group) -> None:
    """Park plain workers' requests for one task each."""
    asking = sorted({group.memory.plain[token][0] for token, *_ in group.leases})
    if asking:
        await group.execute(_ALIVE, asking, group.now + PLAIN_SECONDS)
    for token, seconds, parking in group.leases:
        session, worker = group.memory.plain[token]
        waiter = Waiter(
            session,
            worker,
            WorkerFacts(name=f"plain-{token}", slots=0, is_plain=True),
            parking,
            number=0,
            want=0 if parking.is_gone else 1,
            result=ExchangeResult([], [], []),
            plain_seconds=seconds,
        )
        group.parking_plain.append(waiter)
        if parking.is_over:
            group.ending[waiter] = None


async def tell_parked(group: Group) -> None:
    """End parked exchanges that a newer one follows elsewhere, or that have something to hear."""
    waiters = {
        session: waiter
        for session, waiter in {**group.memory.waiters, **group.parking}.items()
        if group.looks_for_news or session in group.told
    }
    if not waiters:
        return
    numbers = [waiter.number for waiter in waiters.values()]
    current = []
    for session, is_past in await group.fetch(_PARKED, list(waiters), numbers):
        if is_past:
            group.ending[waiters[session]] = None
        else:
            current.append(session)
    for session, lease, why in await group.fetch(_STOPS, current):
        group.stops[session].append((lease, why))
        group.ending[waiters[session]] = None
