"""Exchanges of workers, all of a group together: who speaks, what is reported, what is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from task_server.errors import Invalid, NotFound, SessionOver
from task_server.store.postgres.finish import Told, decide_all
from task_server.store.postgres.group import Group
from task_server.store.postgres.held import go_on, note_environments
from task_server.store.postgres.known import columns
from task_server.store.postgres.memory import Parking
from task_server.store.postgres.parked import park
from task_server.store.postgres.session import Session, read_session
from task_server.store.sessions import ExchangeRequest, ExchangeResult

MAXIMUM_NUMBER = 2**53
"""Of an exchange."""
NOT_KNOWN = "the session is not known; join again"

# Who speaks, as it was before; and in the same step what each exchange does to its session.
_SPEAK = """
WITH old AS (
  SELECT s.session, s.id, s.worker, k.id AS worker_id, k.token, k.facts, s.is_plain, s.number,
         s.seen, s.is_over, w.number AS new_number, w.seen AS new_seen,
         s.is_over = 0 AND s.is_plain = 0 AND k.token = w.token AND k.id = w.worker AS is_live
    FROM unnest($1::text[], $2::int[], $3::text[], $4::bigint[], $5::bigint[])
      AS w(id, token, worker, number, seen)
    JOIN sessions s ON s.id = w.id
    JOIN workers k ON k.worker = s.worker
   ORDER BY s.session + 0 FOR UPDATE OF s),
renewed AS (
  UPDATE sessions s SET alive_until = $6, number = greatest(s.number, o.new_number),
         seen = greatest(s.seen, o.new_seen)
    FROM old o WHERE s.session = o.session AND o.is_live),
told AS (
  DELETE FROM stops x USING old o
   CROSS JOIN LATERAL (
     SELECT y.ctid AS place FROM stops y WHERE y.session = o.session OFFSET 0) s
   WHERE x.ctid = s.place AND o.is_live AND o.new_number >= o.number
  RETURNING x.session, x.lease, x.why)
SELECT o.session, o.id, o.worker, o.worker_id, o.token, o.facts, o.is_plain, o.number,
       greatest(o.seen, o.new_seen), o.is_over, t.stops
  FROM old o
 CROSS JOIN LATERAL (
   SELECT array_agg(ARRAY[told.lease, told.why]) AS stops FROM told
    WHERE told.session = o.session) t
 ORDER BY o.is_live DESC"""


async def exchange_all(group: Group) -> None:
    """Decide reports, renew, and park each exchange until there is something to tell."""
    live, past = await _sessions(group)
    told = [each for session in live + past for each in session.told]
    told += await _plain_answers(group)
    await decide_all(group, told)
    _answer_plain(group, told)
    for session in past:
        session.parking.fail(SessionOver("the session has ended; join again"))
    if live:
        await note_environments(group, live)
        await go_on(group, [each for each in live if not each.is_stale])
    for session in live:
        result = ExchangeResult(
            [each.decided for each in session.told if each.decided is not None],
            session.tasks,
            session.stops,
        )
        if session.is_stale:
            result.stop = []  # the newest tells them
            session.parking.settle(result)
        else:
            park(group, session, result)


# ---- who speaks


async def _sessions(group: Group) -> tuple[list[Session], list[Session]]:
    """Exchanges of live sessions and of ended ones; what cannot be is refused."""
    wanted = _wanted(group)
    live: list[Session] = []
    past: list[Session] = []
    for row in await _speak(group, wanted) if wanted else ():
        for request, parking in wanted.pop(row[1], ()):
            session = read_session(row, request, parking)
            if session.token != request.token:
                parking.fail(SessionOver(NOT_KNOWN))
            elif session.is_over or session.is_plain:
                past.append(session)
            elif session.worker_id != request.worker:
                parking.fail(NotFound("the session is another worker's"))
            else:
                live.append(session)
    for exchanges in wanted.values():
        for _, parking in exchanges:
            parking.fail(SessionOver(NOT_KNOWN))
    _find_newest(live)
    return live, past


Exchanges = list[tuple[ExchangeRequest, Parking]]


def _wanted(group: Group) -> dict[str, Exchanges]:
    """The exchanges of each session, as they came."""
    wanted: dict[str, Exchanges] = {}
    for request, parking in group.exchanges:
        if not 0 <= request.number < MAXIMUM_NUMBER:
            error = Invalid("number: count the exchanges of the session from 1", field="number")
            parking.fail(error)
        elif "\0" in request.session + request.worker:
            parking.fail(SessionOver(NOT_KNOWN))
        else:
            wanted.setdefault(request.session, []).append((request, parking))
    return wanted


async def _speak(group: Group, wanted: Mapping[str, Exchanges]) -> list[Any]:
    said: dict[tuple[str, int, str], tuple[int, int]] = {}
    for session, exchanges in wanted.items():
        for request, _ in exchanges:
            who = (session, request.token, request.worker)
            number, seen = said.get(who, (0, 0))
            arrived = min(request.seen, request.number - 1)
            said[who] = (max(number, request.number), max(seen, arrived))
    rows = [(*who, *numbers) for who, numbers in said.items()]
    return await group.fetch(_SPEAK, *columns(rows), group.now + group.lease_seconds)


def _find_newest(live: Sequence[Session]) -> None:
    """Of several exchanges of one session the newest, and of equal ones the last, has its place."""
    newest: dict[int, Session] = {}
    for session in live:
        other = newest.get(session.session)
        if session.request.number < session.number:
            session.is_stale = True
        elif other is None or session.request.number >= other.request.number:
            newest[session.session] = session
            if other is not None:
                other.is_stale = True
        else:
            session.is_stale = True


async def _plain_answers(group: Group) -> list[Told]:
    found = []
    for token, report, _ in group.answers:
        session, worker = group.memory.plain[token]
        found.append(Told(report, worker, session))
    return found


def _answer_plain(group: Group, told: Sequence[Told]) -> None:
    count = len(group.answers)
    for each, (_, _, operation) in zip(told[len(told) - count :], group.answers, strict=True):
        assert each.decided is not None
        operation.settle(each.decided)
