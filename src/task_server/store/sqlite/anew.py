"""Where tasks stand that become ready once more."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.order import InBatch, Place, place
from task_server.store.sqlite.change import FullRow
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in

_SHARED = (
    "SELECT t.number, x.finish_by, b.due_at, b.in_order FROM tasks t"
    " LEFT JOIN task_extras x USING (number) LEFT JOIN batches b USING (batch)"
    " WHERE t.number IN ({rows})"
)


def places_anew(group: Group, rows: Sequence[FullRow]) -> list[Place]:
    """Where each of these stands that becomes ready now."""
    found = select_in(group.connection, _SHARED, [row.number for row in rows])
    shared = {
        number: (finish_by, None if due_at is None else InBatch(due_at, bool(in_order)))
        for number, finish_by, due_at, in_order in found
    }
    return [_place(group, row, *shared[row.number]) for row in rows]


def _place(group: Group, row: FullRow, finish_by: float | None, batch: InBatch | None) -> Place:
    return place(
        group.now,
        predicted=row.predicted,
        predicted_high=row.predicted_high,
        finish_by=finish_by,
        batch=batch,
        by_prediction=group.policy.by_prediction,
    )
