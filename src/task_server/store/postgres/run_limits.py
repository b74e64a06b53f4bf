"""`timeout: "auto"`: the limit of a run is fixed with its lease."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.timeouts import RunLimit, auto_limit
from task_server.store.kinds import AUTO
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.postgres.memory import Queued

_KNOWN = """
SELECT t.number, t.predicted_high, coalesce(x.errors, 0)
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number
  LEFT JOIN task_extras x ON x.number = t.number"""
_KEEP = """
INSERT INTO task_extras AS x (number, limit_seconds, limit_why)
SELECT * FROM unnest($1::bigint[], $2::float8[], $3::text[])
ON CONFLICT (number) DO UPDATE SET
  limit_seconds = excluded.limit_seconds, limit_why = excluded.limit_why"""


async def fix_limits(group: Group, leased: Sequence[Queued]) -> dict[int, RunLimit]:
    """Fix the limits of those of the leased tasks that leave them to the server; by number."""
    kinds = {task.number: task.kind for task in leased if task.kind.spec.timeout == AUTO}
    if not kinds:
        return {}
    limits = {
        number: auto_limit(
            group.memory.statistics_of(kinds[number]),
            predicted_high=high,
            failures=errors,
            is_on=group.policy.limits_by_prediction,
        )
        for number, high, errors in await group.fetch(_KNOWN, sorted(kinds))
    }
    rows = [(number, limit.seconds, limit.why) for number, limit in sorted(limits.items())]
    await group.execute(_KEEP, *columns(rows))
    return limits
