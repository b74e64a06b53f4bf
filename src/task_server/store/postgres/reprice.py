"""Predictions of waiting tasks that are better known now: written back, and their places anew."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store.contract_learning import NewPrice
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns

# Tasks are found by their numbers: `+ 0` keeps the planner from the index of all that waits.
_WAITING = """
SELECT t.number, t.ready_at, x.finish_by, b.due_at, b.in_order
  FROM unnest($1::bigint[]) AS w(number)
  JOIN tasks t ON t.number = w.number
  LEFT JOIN task_extras x ON x.number = t.number
  LEFT JOIN LATERAL (SELECT due_at, in_order FROM batches WHERE batch = t.batch OFFSET 0) b ON true
 WHERE t.state + 0 = 0
 ORDER BY t.number
   FOR UPDATE OF t"""
_REPRICE = """
UPDATE tasks t
   SET predicted = w.predicted, predicted_high = w.high, due_at = w.due_at, tie = w.tie
  FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::float8[], $5::float8[], $6::float8[])
    AS w(number, attempt, predicted, high, due_at, tie)
-- A task that was leased since it was priced keeps the estimate that it was leased with.
 WHERE t.number = w.number AND t.state + 0 = 0 AND t.attempt = w.attempt
RETURNING t.lane, t.due_at"""


async def reprice(group: Group, prices: Sequence[NewPrice]) -> int:
    """Give waiting tasks other predictions; how many wait still as they were priced."""
    wanted = {price.number: price for price in prices}
    found = await group.fetch(_WAITING, sorted(wanted))
    rows = []
    for number, *rest in found:
        price = wanted[number]
        at = price.place(*rest, by_prediction=group.policy.by_prediction)
        rows.append((number, price.attempt, price.predicted, price.predicted_high, *at))
    if not rows:
        return 0
    moved = await group.fetch(_REPRICE, *columns(rows))
    for lane, due_at in moved:
        group.queue(lane, due_at)
    return len(moved)
