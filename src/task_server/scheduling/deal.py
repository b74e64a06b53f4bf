"""Deal: which waiting worker gets which queued task (docs/explanation/architecture.md, 4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Generic

from task_server.scheduling.lanes import C, Candidate, Key, Lane
from task_server.scheduling.requires import NOTHING, Free, Requires
from task_server.scheduling.shares import Shares

PREFETCH_SECONDS = 0.050
"""How much predicted work (p90) of short functions may lie on one slot."""
PREFETCH_TASKS = 512
"""How many tasks may lie on one slot."""
REPLY_BYTES = 16 * 2**20


class Room(Generic[C]):
    """What one waiting worker can take."""

    __slots__ = (
        "broken",
        "dealt",
        "free",
        "is_plain",
        "kept",
        "long",
        "pythons",
        "reply_bytes",
        "sandbox",
        "short",
        "short_seconds",
        "slots",
        "want",
    )

    def __init__(
        self,
        *,
        want: int,
        slots: int,
        pythons: frozenset[str],
        sandbox: int,
        is_plain: bool = False,
        broken: frozenset[str] = frozenset(),
        free: Free | None = None,
    ) -> None:
        self.want = want
        self.slots = slots
        self.pythons = pythons
        self.sandbox = sandbox
        self.is_plain = is_plain
        self.broken = broken
        """Environments that it could not build of late."""
        self.free = free
        """None: tasks that require something are not for it."""
        self.long = 0
        self.short = 0
        self.short_seconds = 0.0
        self.reply_bytes = 0
        self.dealt: list[C] = []
        self.kept: set[int] = set()
        """Lanes for whose first it keeps what that requires."""

    def fits(self, lane: Lane[C], *, ever: bool = False) -> bool:
        """True when this worker may take from the lane, now or (`ever`) once it has nothing."""
        if lane.environment is None or lane.environment in self.broken:
            return False
        if lane.sandbox > self.sandbox:
            return False
        if lane.requires is not None and not self.has(lane.requires, ever=ever):
            return False
        return lane.plain if self.is_plain else lane.python in self.pythons

    def has(self, requires: Requires, *, ever: bool = False) -> bool:
        """True when it has that free now, or `ever`."""
        if self.free is None:
            return self.is_plain and requires.stated == NOTHING
        if ever:
            return self.free.could(requires)
        slots = self.slots - self.long - self.short if requires.takes else self.slots
        return self.free.has(requires, slots=slots)

    def keep(self, lane: Lane[C]) -> None:
        """Give others only what is left beside that of the lane's first, which starts later."""
        if lane.number not in self.kept:
            self.kept.add(lane.number)
            self.hold(is_short=False, seconds=0.0, requires=lane.requires)

    def hold(self, *, is_short: bool, seconds: float, requires: Requires | None = None) -> None:
        """Count a task that the worker has."""
        if is_short:
            self.short += 1
            self.short_seconds += seconds
        elif requires is None or self.free is None:
            self.long += 1
        else:
            self.long += self.free.take(requires)

    def is_full(self, *, ahead: bool) -> bool:
        """True when it can take nothing at all: no free slot, or `ahead` no slot to add to."""
        held = self.long if ahead else self.long + self.short
        return self.want <= 0 or held >= self.slots

    def takes(self, candidate: Candidate, *, ahead: bool) -> bool:
        """Whether one that is not full can have this one.

        `ahead` of a free slot only short functions go, and never what crashed before: its crash
        must not be another's.
        """
        if self.reply_bytes + candidate.size > REPLY_BYTES and self.dealt:
            return False
        if not ahead:
            return True
        if candidate.crashes or not candidate.statistics.is_short:
            return False
        free = self.slots - self.long
        seconds = self.short_seconds + candidate.statistics.price().p90
        return seconds <= PREFETCH_SECONDS * free and self.short < PREFETCH_TASKS * free

    def like_the_first(self, lane: Lane[C]) -> int:
        """How many of a lane's first ones it may have ahead at once, where it takes the very first.

        Hardly any Python code for each: a thousand of one function may come together.
        """
        entries = lane.window.entries
        first = entries[0]
        seconds = short_seconds(first, lane.requires)
        if seconds is None:
            return 1
        free = self.slots - self.long
        most = min(self.want, PREFETCH_TASKS * free - self.short)
        if seconds > 0.0:
            most = min(most, int((PREFETCH_SECONDS * free - self.short_seconds) / seconds))
        statistics, left, count = first.statistics, REPLY_BYTES - self.reply_bytes - first.size, 1
        for each in entries[1:most]:
            left -= each.size
            if left < 0 or each.crashes or each.statistics is not statistics:
                break
            count += 1
        return count

    def give(self, candidates: list[C], requires: Requires | None = None) -> None:
        """Deal one, or several that are `like_the_first`."""
        seconds, count = short_seconds(candidates[0], requires), len(candidates)
        if seconds is None:
            self.hold(is_short=False, seconds=0.0, requires=requires)
        else:
            self.short += count
            self.short_seconds += count * seconds
        self.want -= count
        for candidate in candidates:
            self.reply_bytes += candidate.size
        self.dealt += candidates


def short_seconds(candidate: Candidate, requires: Requires | None = None) -> float | None:
    """Predicted p90 of what may share a slot with others; None for what has it alone."""
    statistics = candidate.statistics
    if candidate.crashes or not statistics.is_short or (requires is not None and requires.takes):
        return None
    return statistics.price().p90


Head = tuple[int, Key, Lane[C]]
"""A lane in the order of its owner's: higher priority first, then the least key."""
Turn = tuple[float, int, list[Head[C]]]
"""A party in the order of shares, and the heads of its lanes as a heap."""


def deal(
    rooms: Sequence[Room[C]],
    lanes: Sequence[Lane[C]],
    *,
    shares: Shares,
    refill: Callable[[Lane[C]], None],
    now: float = float("-inf"),
    ahead: bool = True,
    in_flight: Mapping[int, float] | None = None,
) -> None:
    """Deal the heads of the lanes to the rooms, and charge their owners.

    Each free slot gets one first, whoever's it is; then, if `ahead`, slots that work on short
    functions get more. `refill` is called when a window ran empty though its lane has more. What is
    due at `now` and has to wait for resources is not passed for ever. `in_flight` is for
    `Shares.begin`.
    """
    shares.begin((lane.owner for lane in lanes), in_flight)
    _keep_for_the_first(rooms, lanes, shares, now)
    for is_ahead in (False, True) if ahead else (False,):
        for room in rooms:
            if not room.is_full(ahead=is_ahead):
                fitting = [lane for lane in lanes if lane.window.entries and room.fits(lane)]
                _fill(room, _turns(fitting, shares), ahead=is_ahead, shares=shares, refill=refill)


def _keep_for_the_first(
    rooms: Sequence[Room[C]], lanes: Sequence[Lane[C]], shares: Shares, now: float
) -> None:
    """Keep what the first of all requires, where it is due and no worker has that free now.

    Else smaller tasks would take it again and again, and the first would wait as long as they come.
    """
    for lane in lanes:
        if lane.requires is not None and lane.requires.takes:
            break
    else:
        return
    waiting = [lane for lane in lanes if lane.window.entries]
    waiting.sort(key=lambda lane: (shares.turn(shares.party(lane.owner)), *_head(lane)[:2]))
    for lane in waiting:
        able = [room for room in rooms if room.fits(lane, ever=True)]
        if able:
            is_due = lane.window.entries[0].due_at <= now
            if is_due and lane.requires is not None and not any(each.fits(lane) for each in able):
                max(able, key=lambda room: room.slots - room.long - room.short).keep(lane)
            return


def _turns(lanes: Iterable[Lane[C]], shares: Shares) -> list[Turn[C]]:
    heads: dict[int, list[Head[C]]] = defaultdict(list)
    for lane in lanes:
        heads[shares.party(lane.owner)].append(_head(lane))
    turns: list[Turn[C]] = []
    for party, mine in heads.items():
        heapify(mine)
        turns.append((shares.turn(party), party, mine))
    heapify(turns)
    return turns


def _head(lane: Lane[C]) -> Head[C]:
    return (-lane.priority, lane.window.entries[0].key, lane)


def _fill(
    room: Room[C],
    turns: list[Turn[C]],
    *,
    ahead: bool,
    shares: Shares,
    refill: Callable[[Lane[C]], None],
) -> None:
    while turns and not room.is_full(ahead=ahead):
        _, party, heads = turns[0]
        lane = heads[0][2]
        if lane.requires is not None and not room.has(lane.requires):
            _drop(turns)  # the worker had it before it was given some of the lane
            continue
        candidate = lane.window.entries[0]
        if not room.takes(candidate, ahead=ahead):
            heappop(turns)  # nothing of a party passes that party's first
            continue
        is_alone = ahead and len(turns) == 1 and len(heads) == 1
        given = lane.window.entries[: room.like_the_first(lane) if is_alone else 1]
        room.give(given, lane.requires)
        seconds = 0.0
        for each in given:
            seconds += abs(each.predicted)
        shares.charge(lane.owner, seconds)
        _advance(heads, len(given), refill)
        if heads:
            heapreplace(turns, (shares.turn(party), party, heads))
        else:
            heappop(turns)


def _drop(turns: list[Turn[C]]) -> None:
    """Go on without the first lane."""
    heads = turns[0][2]
    heappop(heads)
    if not heads:
        heappop(turns)


def _advance(heads: list[Head[C]], count: int, refill: Callable[[Lane[C]], None]) -> None:
    """Take the first tasks out of the first lane."""
    lane = heads[0][2]
    window = lane.window
    del window.entries[:count]
    if not window.entries and not window.is_complete:
        refill(lane)
    if window.entries:
        heapreplace(heads, _head(lane))
    else:
        heappop(heads)
