"""Looking at the heads of lanes: their least keys, locked for this group."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from task_server.scheduling.lanes import Lane, Window
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns, know_kinds
from task_server.store.postgres.memory import FEWEST, MOST, Hint, LaneFacts, Queued

RESTART_SECONDS = 5.0
"""After so long a look begins at a lane's very start, whatever is known of it."""
RESTART_COST = 20.0
"""Where there may be something lower, it does so after this many times what that cost."""
LARGE_BYTES = 65536
"""What a payload that does not lie in the row is taken to add to a reply."""

_LOOK = """
SELECT w.lane, t.number, t.due_at, t.tie, coalesce(x.crashes, 0), t.predicted, t.size, t.kind,
       t.attempt
  FROM unnest($1::int[], $2::int[], $3::float8[], $4::float8[], $5::bigint[])
    AS w(lane, count, due_at, tie, number)
 CROSS JOIN LATERAL (
    SELECT q.number, q.due_at, q.tie, q.predicted, q.kind, q.attempt,
           coalesce(octet_length(q.payload), $6) AS size
      FROM tasks q
     WHERE q.state = 0 AND q.lane = w.lane
       AND (q.due_at, q.tie, q.number) > (w.due_at, w.tie, w.number)
     ORDER BY q.due_at, q.tie, q.number
     LIMIT w.count
       FOR UPDATE SKIP LOCKED) t
  LEFT JOIN task_extras x ON x.number = t.number"""


class RanEmpty(Exception):
    """What was looked at of a lane is dealt, and the lane may have more."""

    def __init__(self, lane: Lane[Queued]) -> None:
        super().__init__(lane.number)
        self.lane = lane


def environment_of(group: Group, lane: LaneFacts) -> str | None:
    """The environment of a lane's tasks; None before its lock."""
    for request in group.requests:
        if request.number == lane.request:
            return request.environment
    return group.memory.requests_by_number[lane.request].environment


class Looked:
    """The heads of lanes as this group has seen and locked them."""

    def __init__(self, group: Group, lanes: Iterable[LaneFacts], *, most: int) -> None:
        self._group = group
        self._memory = group.memory
        self._most = min(most + 1, MOST)  # one more tells that there are more
        self._begun = asyncio.get_running_loop().time()
        self._cost = 0.0
        self._anew: set[int] = set()
        """Lanes that were looked at from their very start."""
        self.lanes = {lane.number: self._lane(lane) for lane in lanes}
        self._stamps = {number: self._hint(number).stamp for number in self.lanes}
        self._seen: Counter[int] = Counter()
        """How many of each lane that was looked at."""
        self._fresh: dict[int, list[Queued]] = defaultdict(list)
        for each in group.fresh:
            self._fresh[each.kind.lane].append(each)

    def _hint(self, lane: int) -> Hint:
        return self._memory.hint(lane)

    def _lane(self, lane: LaneFacts) -> Lane[Queued]:
        return Lane(
            lane.number,
            owner=lane.owner,
            priority=lane.priority,
            python=lane.python,
            plain=lane.plain,
            sandbox=lane.sandbox,
            request=lane.request,
            environment=environment_of(self._group, lane),
            window=Window(is_complete=False),
            requires=lane.requires,
        )

    async def look_at(self, numbers: Collection[int]) -> None:
        """The first look at lanes, from the least keys that are known of them."""
        starts = []
        share = max(2 * self._most // len(numbers), 1)
        for number in numbers:
            lane, hint = self.lanes[number], self._hint(number)
            if number not in self._memory.active and number in self._fresh:
                self._fill(lane, [], wanted=1)  # there was nothing before this group's
                continue
            due_at = self._group.queued.get(number, hint.head)
            if self._is_anew(hint):
                self._anew.add(number)
                due_at = float("-inf")
            lane.window.bound = (min(due_at, hint.head), float("-inf"), 0)
            starts.append((lane, min(hint.count, self._most, share)))
        await self._look(starts)
        self._cost = asyncio.get_running_loop().time() - self._begun

    def _is_anew(self, hint: Hint) -> bool:
        """Whether to begin at the very start: dead rows may lie there, many of them."""
        waited = self._begun - hint.restarted_at
        is_due = hint.is_doubted and waited >= RESTART_COST * hint.cost
        return is_due or waited > RESTART_SECONDS

    async def look_further(self, lane: Lane[Queued]) -> None:
        """The next of a lane whose first are dealt."""
        await self._look([(lane, min(2 * self._seen[lane.number], MOST))])

    async def _look(self, starts: Sequence[tuple[Lane[Queued], int]]) -> None:
        if not starts:
            return
        keys = [(lane.number, count, *lane.window.bound) for lane, count in starts]
        rows = await self._group.fetch(_LOOK, *columns(keys), LARGE_BYTES)
        await know_kinds(self._group.connection, self._memory, {row[7] for row in rows})
        found: dict[int, list[Queued]] = {lane.number: [] for lane, _ in starts}
        for row in rows:
            found[row[0]].append(self._queued(row))
        for lane, count in starts:
            self._fill(lane, found[lane.number], wanted=count)

    def _fill(self, lane: Lane[Queued], found: list[Queued], *, wanted: int) -> None:
        window = lane.window
        window.refill(found, wanted=wanted)
        self._seen[lane.number] += len(found)
        fresh = self._fresh.pop(lane.number, None)
        if fresh:  # what is due behind all that was looked at waits for the next look
            beyond = window.offer_all(fresh)
            if beyond:
                self._fresh[lane.number] = beyond

    def _queued(self, row: Sequence[Any]) -> Queued:
        _, number, due_at, tie, crashes, predicted, size, kind_number, attempt = row
        kind = self._memory.kinds[kind_number]
        return Queued(
            number=number,
            due_at=due_at,
            tie=tie,
            crashes=crashes,
            predicted=predicted,
            size=size,
            statistics=self._memory.statistics_of(kind),
            kind=kind,
            attempt=attempt,
        )

    def remember(self) -> None:
        """Once the group is on disk: where the next look at these lanes begins."""
        for number, seen in self._seen.items():
            left = self._left(number)
            if not left and self.lanes[number].window.is_complete:
                self._group.queued.pop(number, None)  # all of it is taken
            elif seen > left:
                self._group.left.add(number)
        self._group.on_commit.append(self._remember)

    def _left(self, lane: int) -> int:
        return len(self.lanes[lane].window.entries) + len(self._fresh.get(lane, ()))

    def _remember(self) -> None:
        for number, seen in self._seen.items():
            hint, window = self._hint(number), self.lanes[number].window
            if number in self._anew:
                hint.restarted_at, hint.cost = self._begun, self._cost
            hint.count = min(max(2 * (seen - self._left(number)), FEWEST), MOST)
            if window.entries:
                hint.head = window.entries[0].due_at
            elif seen:
                hint.head = window.bound[0]
            if hint.stamp != self._stamps[number]:
                continue  # there was news of the lane meanwhile
            hint.is_doubted &= number not in self._anew
            if window.is_complete and not self._left(number) and not hint.is_doubted:
                self._memory.active.discard(number)
            else:
                self._memory.active.add(number)
