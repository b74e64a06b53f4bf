"""T3: look, deal and take for all workers that wait here, at the end of each group."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from task_server.scheduling.deal import Room, deal, short_seconds
from task_server.scheduling.lanes import Lane
from task_server.scheduling.requires import NOTHING, Requires, requires_of
from task_server.scheduling.shares import weights_of
from task_server.store.attempts import Dealt
from task_server.store.postgres.group import Again, Group
from task_server.store.postgres.inserting import insert_fresh
from task_server.store.postgres.known import columns, know_kinds, know_lanes
from task_server.store.postgres.look import Looked, RanEmpty, environment_of
from task_server.store.postgres.memory import Fresh, LaneFacts, Memory, Queued, Waiter
from task_server.store.postgres.placing import fastest_first, know_warm, leave_to_warm
from task_server.store.postgres.run_limits import fix_limits

# A newer exchange elsewhere has another number; one that another server works on now is passed.
_ROOMS = """
SELECT s.session, h.kind, h.is_short, h.count, h.oldest
  FROM unnest($1::bigint[], $2::bigint[], $4::bigint[]) AS w(session, number, oldest)
  JOIN sessions s ON s.session = w.session
  LEFT JOIN LATERAL (
    SELECT t.kind, t.is_short, count(*) AS count, min(t.reply) AS oldest FROM tasks t
     WHERE t.session = s.session AND t.state = 2 AND t.reply >= w.oldest
     GROUP BY t.kind, t.is_short) h ON true
 WHERE s.is_over + 0 = 0 AND s.number = w.number AND s.alive_until > $3
   FOR UPDATE OF s SKIP LOCKED"""
_IN_FLIGHT = """
SELECT k.owner, sum(greatest(abs(t.predicted) - greatest($1 - t.started_at, 0), 0))
  FROM tasks t JOIN kinds k ON k.kind = t.kind
 WHERE t.state = 2
 GROUP BY k.owner"""
_TAKE = """
UPDATE tasks t SET state = 2, attempt = w.attempt + 1, session = w.session, reply = w.reply,
       secret = w.secret, is_short = w.is_short, phase = 0,
       started_at = greatest($7, t.submitted_at)
  FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bytea[], $6::int[])
    AS w(number, attempt, session, reply, secret, is_short)
-- Only a task that is still queued, and was not leased meanwhile.
 WHERE t.number = w.number AND t.state + 0 = 0 AND t.attempt = w.attempt
RETURNING t.number, t.id, t.payload"""
_PAYLOADS = """
SELECT number, data FROM payloads WHERE number = ANY($1::bigint[]) AND part = 0"""
_PLAIN_ENDS = """
INSERT INTO task_extras AS x (number, leased_until)
SELECT * FROM unnest($1::bigint[], $2::float8[])
ON CONFLICT (number) DO UPDATE SET leased_until = excluded.leased_until"""


KNOWN_SESSIONS = 10_000
"""Whose oldest running task is remembered."""
OWNERS = 16
"""Whose lanes are looked at together, at least."""

Taken = tuple[Queued, Waiter, bytes]
"""A task, who has it now, and the secret of its lease."""


async def deal_to_parked(group: Group) -> None:
    """Lease queued tasks to parked workers, those of this group among them."""
    taken = await _dealt(group)
    await insert_fresh(group)
    if taken:
        group.is_durable = True
        await _hand_over(group, taken)


async def _dealt(group: Group) -> list[Taken]:
    waiting = _waiting(group)
    lanes = await _lanes(group) if waiting else []
    fitting = _fitting(lanes, waiting)
    rooms = await _rooms(group, waiting) if fitting else {}
    if group.policy.by_placement:
        rooms = fastest_first(group.memory, rooms)
        await know_warm(group, [environment_of(group, lane) for lane in lanes])
    most = sum(room.want for room in rooms.values() if not _is_full(room))
    if not most:
        return []
    looked = Looked(group, lanes, most=most)
    await _begin_shares(group, {lane.owner for lane in lanes})
    for some in _by_share(group, [lane for lane in lanes if lane.number in fitting], most):
        await looked.look_at(some)
        if group.policy.by_placement:
            leave_to_warm(group, rooms, looked.lanes.values())
        await _deal(group, list(rooms.values()), looked)
        if all(room.is_full(ahead=False) for room in rooms.values()):
            break
    looked.remember()
    return _taken(rooms)


async def _begin_shares(group: Group, owners: set[int]) -> None:
    shares, policy = group.memory.shares, group.policy
    shares.is_fair = policy.shares_fairly
    if policy.share_weights and not owners <= shares.weights.keys():
        named = await group.fetch("SELECT owner, name FROM owners")
        shares.weights = weights_of(owners, named, policy.share_weights)
    in_flight = None
    if shares.would_lift(owners):
        in_flight = dict(await group.fetch(_IN_FLIGHT, group.now))
    shares.begin(owners, in_flight)


def _by_share(group: Group, lanes: Sequence[LaneFacts], most: int) -> Iterator[list[int]]:
    """Lanes of the owners who come first; then, should that not do, of those who come next.

    To deal so many tasks takes no more owners than that.
    """
    shares = group.memory.shares
    by_owner: dict[int, list[int]] = defaultdict(list)
    for lane in sorted(lanes, key=lambda lane: shares.turn(shares.party(lane.owner))):
        by_owner[shares.party(lane.owner)].append(lane.number)
    owners = list(by_owner.values())
    size = max(most, OWNERS)
    for start in range(0, len(owners), size):
        yield [lane for mine in owners[start : start + size] for lane in mine]


def _waiting(group: Group) -> list[Waiter]:
    memory = group.memory
    current = {**memory.waiters, **group.parking}
    plain = [each for each in memory.parked.values() if each.facts.is_plain]
    every = [*current.values(), *plain, *group.parking_plain]
    return [
        waiter
        for waiter in every
        # One whose time is up is still told of what there is with its own group, later of nothing.
        if waiter.want > 0 and not (waiter.operation.is_over and waiter.operation in memory.parked)
    ]


async def _lanes(group: Group) -> list[LaneFacts]:
    """Lanes that may have something to lease."""
    memory = group.memory
    active = memory.active | group.queued.keys()
    await know_lanes(group.connection, memory, active)
    lanes = (memory.lanes[number] for number in active if number in memory.lanes)
    return [lane for lane in lanes if environment_of(group, lane) is not None]


def _fitting(lanes: Iterable[LaneFacts], waiting: Sequence[Waiter]) -> set[int]:
    """Those that one of the waiting may run something of."""
    pythons = {python for waiter in waiting for python in waiter.facts.pythons}
    has_plain = any(waiter.facts.is_plain for waiter in waiting)
    return {
        lane.number
        for lane in lanes
        if lane.python in pythons or (has_plain and lane.plain)
        if lane.requires is None or _has(waiting, lane.requires)
    }


def _has(waiting: Sequence[Waiter], requires: Requires) -> bool:
    """Whether one of them has ever what is required: a look locks what it finds."""
    if requires.stated == NOTHING:
        return True
    every = (waiter.facts.free() for waiter in waiting)
    return any(free is not None and free.could(requires) for free in every)


def _is_full(room: Room[Queued]) -> bool:
    return room.is_full(ahead=False) and room.is_full(ahead=True)


async def _rooms(group: Group, waiting: Sequence[Waiter]) -> dict[Waiter, Room[Queued]]:
    """What each can take now; those that another server works on are left out."""
    memory = group.memory
    sessions = {each.session: each for each in waiting if not each.facts.is_plain}
    rooms = {each: _room(group, each) for each in waiting if each.facts.is_plain}
    if not sessions:
        return rooms
    numbers = [each.number for each in sessions.values()]
    known = [memory.oldest_replies.get(each, 0) for each in sessions]
    rows = await group.fetch(_ROOMS, list(sessions), numbers, group.now, known)
    await know_kinds(group.connection, memory, {row[1] for row in rows if row[1] is not None})
    oldest: dict[int, int] = {}
    for session, kind, is_short, count, reply in rows:
        waiter = sessions[session]
        first = waiter.number if reply is None else reply
        oldest[session] = min(oldest.get(session, first), first)
        room = rooms.get(waiter)
        if room is None:
            room = rooms[waiter] = _room(group, waiter)
        if kind is not None:
            _hold(room, memory, kind, is_short=bool(is_short), count=count)
    group.on_commit.append(lambda: _know_oldest(memory, oldest))
    return rooms


def _know_oldest(memory: Memory, oldest: Mapping[int, int]) -> None:
    # What a session gets comes with ever later replies, so none of before can be added.
    if len(memory.oldest_replies) > KNOWN_SESSIONS:
        memory.oldest_replies.clear()
    memory.oldest_replies.update(oldest)


def _room(group: Group, waiter: Waiter) -> Room[Queued]:
    facts = waiter.facts
    broken = {**group.memory.broken, **group.broken}.items()
    return Room(
        want=waiter.want,
        slots=1 if facts.is_plain else facts.slots,
        pythons=frozenset(facts.pythons),
        sandbox=facts.sandbox,
        is_plain=facts.is_plain,
        broken=frozenset(
            environment
            for (worker, environment), until in broken
            if worker == waiter.worker and until > group.now
        ),
        free=facts.free() if group.memory.has_requirements else None,
    )


def _hold(room: Room[Queued], memory: Memory, kind: int, *, is_short: bool, count: int) -> None:
    if is_short:
        room.short += count
        room.short_seconds += count * memory.statistics_of(memory.kinds[kind]).price().p90
        return
    requires = requires_of(memory.kinds[kind].spec.requires)
    if requires is None:
        room.long += count
        return
    for _ in range(count):
        room.hold(is_short=False, seconds=0.0, requires=requires)


# ---- deal and take


async def _deal(group: Group, rooms: Sequence[Room[Queued]], looked: Looked) -> None:
    lanes = list(looked.lanes.values())
    while True:
        try:
            deal(
                rooms,
                lanes,
                shares=group.memory.shares,
                refill=_stop,
                now=group.now,
                ahead=group.policy.deals_ahead,
            )
            return
        except RanEmpty as found:
            await looked.look_further(found.lane)


def _stop(lane: Lane[Queued]) -> None:
    """What the lane has next comes before what the others have: look there, then go on."""
    raise RanEmpty(lane)


def _taken(rooms: Mapping[Waiter, Room[Queued]]) -> list[Taken]:
    taken: list[Taken] = []
    for waiter, room in rooms.items():
        for task, secret in zip(room.dealt, _secrets(len(room.dealt)), strict=True):
            taken.append((task, waiter, secret))
            if isinstance(task, Fresh):
                task.lease = _lease(task, waiter, secret)
    return taken


def _secrets(count: int) -> list[bytes]:
    """New lease secrets of 128 bits."""
    random = os.urandom(16 * count)
    return [random[16 * i : 16 * i + 16] for i in range(count)]


def _lease(task: Queued, waiter: Waiter, secret: bytes) -> tuple[int, int, bytes, int]:
    seconds = short_seconds(task, requires_of(task.kind.spec.requires))
    is_short = seconds is not None and not waiter.facts.is_plain
    return (waiter.session, waiter.number, secret, int(is_short))


async def _hand_over(group: Group, taken: Sequence[Taken]) -> None:
    stored = await _take(group, [each for each in taken if not isinstance(each[0], Fresh)])
    limits = await fix_limits(group, [task for task, *_ in taken])
    plain: list[tuple[int, float]] = []
    for task, waiter, secret in taken:
        if isinstance(task, Fresh):
            identifier, payload = task.task.id, task.task.payload
        else:
            identifier, payload = stored[task.number]
        dealt = Dealt(task.number, identifier, task.kind, task.attempt + 1, secret, payload)
        if limits:
            dealt.limit = limits.get(task.number)
        if waiter.facts.is_plain:
            seconds = max(waiter.plain_seconds, dealt.plain_seconds)
            plain.append((task.number, group.now + seconds))
        group.given.setdefault(waiter, []).append(dealt)
        group.load[task.kind.number] -= 1
    if plain:
        await group.execute(_PLAIN_ENDS, *columns(sorted(plain)))


async def _take(group: Group, taken: Sequence[Taken]) -> dict[int, tuple[bytes, bytes]]:
    """Lease stored tasks; id and payload of each, by number."""
    if not taken:
        return {}
    rows = sorted(
        (task.number, task.attempt, *_lease(task, waiter, secret)) for task, waiter, secret in taken
    )
    found = await group.fetch(_TAKE, *columns(rows), group.now)
    if len(found) != len(rows):
        raise Again("a queued task was not as it was looked at")
    large = [number for number, _, payload in found if payload is None]
    payloads = dict(await group.fetch(_PAYLOADS, large)) if large else {}
    return {
        number: (identifier, payloads.get(number, b"") if payload is None else payload)
        for number, identifier, payload in found
    }
