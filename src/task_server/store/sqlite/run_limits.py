"""`timeout: "auto"`: the limit of a run is fixed with its lease."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.timeouts import RunLimit, auto_limit
from task_server.store.kinds import AUTO
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.sqlite.memory import Queued

_KNOWN = (
    "SELECT t.number, t.predicted_high, ifnull(x.errors, 0) FROM tasks t"
    " LEFT JOIN task_extras x USING (number) WHERE t.number IN ({rows})"
)
_KEEP = (
    "INSERT INTO task_extras (number, limit_seconds, limit_why) VALUES {rows}"
    " ON CONFLICT (number) DO UPDATE SET limit_seconds = excluded.limit_seconds,"
    " limit_why = excluded.limit_why"
)


def fix_limits(group: Group, leased: Sequence[Queued]) -> dict[int, RunLimit]:
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
        for number, high, errors in select_in(group.connection, _KNOWN, kinds)
    }
    rows = [(number, limit.seconds, limit.why) for number, limit in limits.items()]
    write_many(group.connection, _KEEP, rows)
    return limits
