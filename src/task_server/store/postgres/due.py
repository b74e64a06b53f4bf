"""T4: delayed tasks whose time has come are queued."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store.postgres.anew import places_anew
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns

_MAKE_DUE = """
UPDATE tasks t SET state = 0, ready_at = $4, due_at = w.due_at, tie = w.tie
  FROM unnest($1::bigint[], $2::float8[], $3::float8[]) AS w(number, due_at, tie)
-- Only a task that is still delayed.
 WHERE t.number = w.number AND t.state = 1
RETURNING t.number, t.lane, t.due_at"""
_NO_DELAY = "UPDATE task_extras SET delayed_until = NULL WHERE number = ANY($1::bigint[])"


async def make_due(group: Group, numbers: Sequence[int]) -> None:
    """Queue these."""
    if not numbers:
        return
    group.is_durable = True
    places = await places_anew(group, numbers)
    keys = [(number, *at) for number, at in sorted(places.items())]
    rows = await group.fetch(_MAKE_DUE, *columns(keys), group.now)
    for _, lane, due_at in rows:
        group.queue(lane, due_at)
    await group.execute(_NO_DELAY, [number for number, *_ in rows])
