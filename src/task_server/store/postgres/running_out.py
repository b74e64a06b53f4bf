"""Tasks that ran out of memory: the kinds of their next attempts, known before the transaction."""

from __future__ import annotations

from task_server.store.kinds import KindSpec
from task_server.store.outcomes import ran_out_of_memory, roomier
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import know_kinds

_KINDS_OF = """
SELECT t.number, t.kind FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number"""


async def specs_with_more_memory(group: Group) -> list[KindSpec]:
    """Specs of the tasks that are reported to have run out of memory, as they are tried again."""
    reports = {
        report.lease.number: report
        for request, _ in group.exchanges
        for report in request.reports
        if report.lease is not None and ran_out_of_memory(report)
    }
    if not reports or not group.policy.reserves_memory:
        return []
    rows = await group.fetch(_KINDS_OF, list(reports))
    await know_kinds(group.connection, group.memory, {kind for _, kind in rows})
    return [roomier(group.memory.kinds[kind].spec, reports[number]) for number, kind in rows]
