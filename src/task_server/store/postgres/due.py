"""T4: delayed tasks whose time has come are queued."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store.postgres.group import Group

_MAKE_DUE = """
UPDATE tasks SET state = 0, ready_at = $2, due_at = $2
-- Only a task that is still delayed.
 WHERE number = ANY($1::bigint[]) AND state = 1
RETURNING number, lane"""
_NO_DELAY = "UPDATE task_extras SET delayed_until = NULL WHERE number = ANY($1::bigint[])"


async def make_due(group: Group, numbers: Sequence[int]) -> None:
    """Queue these."""
    if not numbers:
        return
    group.is_durable = True
    rows = await group.fetch(_MAKE_DUE, list(numbers), group.now)
    for _, lane in rows:
        group.queue(lane, group.now)
    await group.execute(_NO_DELAY, [number for number, _ in rows])
