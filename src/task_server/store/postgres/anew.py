"""Where tasks stand that become ready once more."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.order import InBatch, Place, place
from task_server.store.postgres.group import Group

_TO_PLACE = """
SELECT t.number, t.predicted, t.predicted_high, x.finish_by, b.due_at, b.in_order
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number
  LEFT JOIN task_extras x ON x.number = t.number
  LEFT JOIN batches b ON b.batch = t.batch"""


async def places_anew(group: Group, numbers: Sequence[int]) -> dict[int, Place]:
    """Where each of these stands that becomes ready now."""
    return {
        number: place(
            group.now,
            predicted=predicted,
            predicted_high=high,
            finish_by=finish_by,
            batch=None if due_at is None else InBatch(due_at, bool(in_order)),
            by_prediction=group.policy.by_prediction,
        )
        for number, predicted, high, finish_by, due_at, in_order in await group.fetch(
            _TO_PLACE, list(numbers)
        )
    }
