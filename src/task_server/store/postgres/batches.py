"""Batches are made, and grow: each member has its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.postgres.plan import Plan
from task_server.store.submissions import BatchSpec

_MAKE_BATCHES = """
INSERT INTO batches (id, digest, owner, name, is_open, expected, in_order, total, due_at,
                     created_at)
SELECT w.*, $10 FROM unnest($1::bytea[], $2::bytea[], $3::int[], $4::text[], $5::int[],
                           $6::bigint[], $7::int[], $8::bigint[], $9::float8[]) AS w
 ORDER BY 1
RETURNING id, batch"""
_GROW = """
UPDATE batches b SET total = b.total + w.count, due_at = w.due_at
  FROM unnest($1::bigint[], $2::bigint[], $3::float8[]) AS w(batch, count, due_at)
 WHERE b.batch = w.batch AND b.batch = ANY($1::bigint[])
RETURNING b.batch, b.total - w.count"""


async def give_positions(group: Group, plans: Sequence[Plan]) -> None:
    """Make the batches that submissions name, and give their tasks positions in them."""
    await _make_batches_of(group, [plan for plan in plans if plan.submission.batch is not None])
    await _grow_batches(group, [plan for plan in plans if plan.submission.into is not None])


async def _make_batches_of(group: Group, plans: Sequence[Plan]) -> None:
    if not plans:
        return
    made = await make_batches(
        group,
        [
            (plan.submission.owner, plan.submission.batch, len(plan.new), plan.shared.due_at)
            for plan in plans
            if plan.submission.batch is not None and plan.shared is not None
        ],
    )
    for plan in plans:
        plan.batch = made[plan.batch_id or b""]


async def make_batches(
    group: Group, batches: Sequence[tuple[int, BatchSpec, int, float | None]]
) -> dict[bytes, int]:
    """Store new batches (owner, batch, total, when its members are due); their numbers by id."""
    rows = [
        (
            batch.id,
            batch.digest,
            owner,
            batch.name,
            int(batch.is_open),
            batch.expected,
            int(batch.in_order),
            total,
            due_at,
        )
        for owner, batch, total, due_at in batches
    ]
    return dict(await group.fetch(_MAKE_BATCHES, *columns(rows), group.now))


async def _grow_batches(group: Group, plans: Sequence[Plan]) -> None:
    """Add to the totals of open batches, and give the new members their positions."""
    if not plans:
        return
    counts: Counter[int] = Counter()
    due_at: dict[int, float] = {}
    for plan in plans:
        assert plan.batch is not None and plan.shared is not None
        due_at[plan.batch] = plan.shared.due_at
        plan.position = counts[plan.batch]
        counts[plan.batch] += len(plan.new)
    grown = [(batch, count, due_at[batch]) for batch, count in sorted(counts.items())]
    before = dict(await group.fetch(_GROW, *columns(grown)))
    for plan in plans:
        assert plan.batch is not None
        plan.position += before[plan.batch]
        group.grown.add(plan.batch)
