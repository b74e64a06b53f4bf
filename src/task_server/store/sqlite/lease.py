"""T3: look, deal and take for all workers that wait, at the end of each group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from task_server.scheduling.deal import Room, deal, short_seconds
from task_server.scheduling.lanes import Lane
from task_server.scheduling.requires import Requires
from task_server.scheduling.shares import weights_of
from task_server.store.attempts import Dealt
from task_server.store.sqlite.change import LostUpdate
from task_server.store.sqlite.group import Group, secrets
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.sqlite.memory import Memory, Queued, Running, Waiter
from task_server.store.sqlite.placing import fastest_first, left_to_warm
from task_server.store.sqlite.run_limits import fix_limits
from task_server.store.states import State

_TAKE = (
    "UPDATE tasks SET state = 2, attempt = w.column2 + 1, session = w.column3, reply = w.column4,"
    " secret = w.column5, started_at = w.column6 FROM (VALUES {rows}) AS w"
    " WHERE tasks.number = w.column1"
    # Only a task that is still queued, and was not leased meanwhile.
    " AND tasks.state = 0 AND tasks.attempt = w.column2"
)

_NONE: frozenset[str] = frozenset()

Taken = tuple[Queued, Waiter, bytes]
"""A task, who has it now, and the secret of its lease."""
Burden = tuple[Requires | None, float | None]
"""What a task takes of its worker: what it requires, and `short_seconds`."""


def deal_to_parked(group: Group) -> list[Waiter]:
    """Lease queued tasks to parked workers; gives those that got some."""
    memory, policy = group.memory, group.policy
    if not memory.active:  # thousands may be parked, and renew one by one
        return []
    waiting = [waiter for waiter in memory.parked.values() if waiter.want > 0]
    lanes = _active_lanes(group) if waiting else []
    if not lanes:
        return []
    memory.broken = {pair: until for pair, until in memory.broken.items() if until > group.now}
    left: Mapping[Waiter, frozenset[str]] = {}
    if policy.by_placement and len(memory.sessions) > 1:
        waiting = fastest_first(memory, waiting)
        left = left_to_warm(group, waiting, lanes)
    rooms = [_room(waiter, memory, left.get(waiter, _NONE)) for waiter in waiting]
    in_flight = _weigh_shares(group, {lane.owner for lane in lanes})
    deal(
        rooms,
        lanes,
        shares=memory.shares,
        refill=group.refill,
        now=group.now,
        ahead=policy.deals_ahead,
        in_flight=in_flight,
    )
    taken: list[Taken] = []
    for room, waiter in zip(rooms, waiting, strict=True):
        lease_secrets = secrets(len(room.dealt))
        taken += [
            (task, waiter, secret) for task, secret in zip(room.dealt, lease_secrets, strict=True)
        ]
    if not taken:
        return []
    _take(group, taken)
    return _hand_over(group, taken)


def _weigh_shares(group: Group, owners: set[int]) -> dict[int, float]:
    """Have the weights of owners; gives what each has running, where it matters."""
    shares, policy = group.memory.shares, group.policy
    shares.is_fair = policy.shares_fairly
    if policy.share_weights and not owners <= shares.weights.keys():
        named = group.connection.execute("SELECT owner, name FROM owners").fetchall()
        shares.weights = weights_of(owners, named, policy.share_weights)
    in_flight: dict[int, float] = defaultdict(float)
    if shares.would_lift(owners):
        for session in group.memory.sessions.values():
            for running in session.leases.values():
                left = abs(running.predicted) - (group.now - running.started_at)
                in_flight[running.kind.spec.owner] += max(left, 0.0)
    return in_flight


def _active_lanes(group: Group) -> list[Lane[Queued]]:
    """Lanes with something to deal; those that are found empty are forgotten until an offer."""
    memory = group.memory
    lanes = []
    for number in list(memory.active):
        lane = memory.lanes[number]
        if not lane.window.entries and not lane.window.is_complete:
            group.refill(lane)
        if not lane.window.entries:
            memory.active.discard(number)
        elif lane.is_leasable:
            lanes.append(lane)
    return lanes


def _room(waiter: Waiter, memory: Memory, left: frozenset[str]) -> Room[Queued]:
    session = waiter.session
    facts, broken = session.facts, memory.broken
    room: Room[Queued] = Room(
        want=waiter.want,
        slots=1 if facts.is_plain else facts.slots,
        pythons=frozenset(facts.pythons),
        sandbox=facts.sandbox,
        is_plain=facts.is_plain,
        broken=left.union(
            environment for worker, environment in broken if worker == session.worker
        ),
        free=facts.free() if memory.has_requirements else None,
    )
    if not facts.is_plain:
        for running in session.leases.values():
            room.hold(is_short=running.is_short, seconds=running.high, requires=running.requires)
    return room


def _take(group: Group, taken: list[Taken]) -> None:
    group.begin()  # a group of exchanges that only ask has not
    fresh = [each for each in taken if each[0].is_fresh]
    stored = [each for each in taken if not each[0].is_fresh]
    if fresh:
        group.insert_running(
            [
                (task, waiter.session.row, waiter.session.number, secret)
                for task, waiter, secret in fresh
            ]
        )
    if stored:
        rows = [
            (
                task.number,
                task.attempt,
                waiter.session.row,
                waiter.session.number,
                bytearray(secret),
                max(group.now, task.submitted_at),  # the clock may have been set back
            )
            for task, waiter, secret in stored
        ]
        if write_many(group.connection, _TAKE, rows) != len(rows):
            raise LostUpdate("a queued task was not as its window had it")
        _read_payloads(group, [task for task, *_ in stored if task.payload is None])


def _read_payloads(group: Group, tasks: list[Queued]) -> None:
    by_number = {task.number: task for task in tasks}
    rows = select_in(
        group.connection,
        "SELECT t.number, ifnull(t.payload, p.data) FROM tasks t LEFT JOIN payloads p"
        " ON p.number = t.number AND p.part = 0 WHERE t.number IN ({rows})",
        by_number,
    )
    for number, payload in rows:
        by_number[number].payload = payload


def _hand_over(group: Group, taken: list[Taken]) -> list[Waiter]:
    given: dict[Waiter, list[Dealt]] = defaultdict(list)
    limits = fix_limits(group, [task for task, *_ in taken])
    burdens: dict[tuple[int, bool], Burden] = {}
    for task, waiter, secret in taken:
        session = waiter.session
        like = (task.kind.number, task.crashes > 0)
        burden = burdens.get(like)
        if burden is None:
            requires = group.lane_of(task).requires
            burden = burdens[like] = (requires, short_seconds(task, requires))
        session.leases[task.number] = _running(group, task, session.number, secret, burden)
        dealt = Dealt(
            task.number, task.id, task.kind, task.attempt + 1, secret, task.payload or b""
        )
        if limits:
            dealt.limit = limits.get(task.number)
        given[waiter].append(dealt)
        if session.facts.is_plain:
            _write_plain_end(group, dealt, waiter)
    _count_out(group, taken)
    for waiter, tasks in given.items():
        waiter.result.tasks = [*waiter.result.tasks, *tasks]
        if not waiter.session.facts.is_plain:
            waiter.session.unseen.append((waiter.session.number, tasks))
    return list(given)


def _count_out(group: Group, taken: list[Taken]) -> None:
    """They are queued no more."""
    counts: dict[int, int] = {}
    for task, *_ in taken:
        counts[task.kind.number] = counts.get(task.kind.number, 0) + 1
    for kind, count in counts.items():
        group.add_load(kind, -count)


def _running(group: Group, task: Queued, reply: int, secret: bytes, burden: Burden) -> Running:
    requires, high = burden
    # By position: a thousand may be leased at once, and names cost as much again.
    return Running(
        task.number,
        task.id,
        task.kind,
        task.attempt + 1,
        secret,
        task.batch,
        task.position,
        task.submitted_at,
        max(group.now, task.submitted_at),
        reply,
        task.predicted,
        task.predicted_high,
        high is not None,
        high or 0.0,
        "leased",
        requires,
    )


def _write_plain_end(group: Group, dealt: Dealt, waiter: Waiter) -> None:
    seconds = max(waiter.plain_seconds, dealt.plain_seconds)
    group.connection.execute(
        "INSERT INTO task_extras (number, leased_until) VALUES (?, ?)"
        " ON CONFLICT (number) DO UPDATE SET leased_until = excluded.leased_until",
        (dealt.number, group.now + seconds),
    )


def write_queued(group: Group) -> None:
    """Insert what this group submitted and nobody took."""
    group.insert([task for task in group.fresh if task.is_fresh], State.QUEUED)
    group.fresh = []
