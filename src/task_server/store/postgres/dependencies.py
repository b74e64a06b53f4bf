"""`after`: tasks that wait until others have succeeded.

What ends a task lets go those that wait for it, in the same group; more than LIMIT of them in the
groups after it. One that ends without success takes them with it: they are cancelled, and so are
those that wait for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from task_server.store.after import in_vain
from task_server.store.postgres.change import Changes, lock_numbers, read_locked
from task_server.store.postgres.due import make_due
from task_server.store.postgres.found import Awaited
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.states import State
from task_server.store.submissions import NewTask
from task_server.store.transitions import Change

LIMIT = 5000
"""Waits that end in one group."""
_AT_ONCE = 256

_KEEP = "INSERT INTO dependencies (task, after) SELECT * FROM unnest($1::bigint[], $2::bigint[])"
_END_WAITS = """
WITH waits AS (
  SELECT d.place, t.id, t.state
    FROM unnest($1::bigint[]) AS w(number)
   CROSS JOIN LATERAL (
     SELECT x.ctid AS place, x.after, x.task FROM dependencies x WHERE x.after = w.number
     OFFSET 0) d
   CROSS JOIN LATERAL (SELECT x.id, x.state FROM tasks x WHERE x.number = d.after OFFSET 0) t
   WHERE t.state > 2
   ORDER BY d.after, d.task LIMIT $2)
DELETE FROM dependencies d USING waits w
-- A row of this table keeps its place: it comes and goes, and never changes.
 WHERE d.ctid = w.place
RETURNING d.task, w.id, w.state"""
_LET_GO = """
UPDATE task_extras x SET pending = x.pending - w.count,
       delayed_until = CASE WHEN x.pending = w.count
                            THEN greatest(coalesce(x.run_after, 0), $3) END
  FROM unnest($1::bigint[], $2::int[]) AS w(number, count)
-- One that was ended meanwhile waits for nothing.
 WHERE x.number = w.number AND x.pending >= w.count
RETURNING x.number, x.delayed_until"""
_LEAVE = """
INSERT INTO unfollowed (number) SELECT * FROM unnest($1::bigint[]) ON CONFLICT DO NOTHING"""
_TAKE_UP = """
DELETE FROM unfollowed WHERE number IN (
  SELECT number FROM unfollowed ORDER BY number LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING number"""


async def keep_waits(
    group: Group,
    new: Iterable[NewTask],
    awaited: Mapping[bytes, Awaited],
    numbers: Mapping[bytes, int],
) -> None:
    """Store what new tasks wait for; `numbers` are those of the new ones."""
    pairs: list[tuple[int, int]] = []
    for task in new:
        for each in dict.fromkeys(task.after):
            known = awaited.get(each)
            if known is None:
                pairs.append((numbers[task.id], numbers[each]))
            elif known.state is not State.SUCCEEDED:
                pairs.append((numbers[task.id], known.number))
                if known.state.is_terminal:
                    group.unfollowed.add(known.number)
    if pairs:
        await group.execute(_KEEP, *columns(pairs))


async def follow(group: Group) -> None:
    """Let go what waits for tasks that ended in this group, and for those it is told of."""
    left = LIMIT
    _note_ends(group)
    while group.unfollowed:
        if left <= 0:
            await group.execute(_LEAVE, sorted(group.unfollowed))
            group.leaves_waits = True
            return
        left -= await _follow_some(group, left)
        _note_ends(group)


def _note_ends(group: Group) -> None:
    group.unfollowed.update(each.number for each in group.ended[group.followed :])
    group.followed = len(group.ended)


async def _follow_some(group: Group, limit: int) -> int:
    """End some waits; how many."""
    looked_at = sorted(group.unfollowed)
    ended = await group.fetch(_END_WAITS, looked_at, limit)
    if len(ended) < limit:
        group.unfollowed.clear()
    let_go = Counter(task for task, _, state in ended if state == State.SUCCEEDED)
    in_vain_of = {task: (end, State(state)) for task, end, state in ended if state > 3}
    await _let_go(group, let_go)
    await _cancel(group, in_vain_of)
    return len(ended)


async def _let_go(group: Group, counts: Mapping[int, int]) -> None:
    """Each of these waits for that many less."""
    if counts:
        rows = await group.fetch(_LET_GO, *columns(sorted(counts.items())), group.now)
        await make_due(
            group, [number for number, until in rows if until is not None and until <= group.now]
        )


async def _cancel(group: Group, ends: Mapping[int, tuple[bytes, State]]) -> None:
    """T11 by the server: what they wait for will never be."""
    changes = Changes(group)
    for row in await read_locked(group, await lock_numbers(group, ends.keys())):
        if row.state is State.DELAYED:
            changes.apply(row, Change(State.CANCELLED), in_vain(*ends[row.number]))
    await changes.write()


async def take_up(group: Group) -> bool:
    """Go on with waits that an earlier group left; True when there were any."""
    found: Sequence[tuple[int]] = await group.fetch(_TAKE_UP, _AT_ONCE)
    group.unfollowed.update(number for (number,) in found)
    return bool(found)
