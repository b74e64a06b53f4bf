"""Batches are made, and grow: each member has its place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from task_server.store.contract import BatchSpec
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.postgres.plan import Plan

_MAKE_BATCHES = """
INSERT INTO batches (id, digest, owner, name, is_open, expected, in_order, total, created_at)
SELECT w.*, $9 FROM unnest($1::bytea[], $2::bytea[], $3::int[], $4::text[], $5::int[],
                           $6::bigint[], $7::int[], $8::bigint[]) AS w
 ORDER BY 1
RETURNING id, batch"""
_GROW = """
UPDATE batches b SET total = b.total + w.count
  FROM unnest($1::bigint[], $2::bigint[]) AS w(batch, count)
 WHERE b.batch = w.batch AND b.batch = ANY($1::bigint[])
RETURNING b.batch, b.total - w.count"""


async def give_places(group: Group, plans: Sequence[Plan]) -> None:
    """Make the batches that submissions name, and give their tasks places in them."""
    await _make_batches_of(group, [plan for plan in plans if plan.submission.batch is not None])
    await _grow_batches(group, [plan for plan in plans if plan.submission.into is not None])


async def _make_batches_of(group: Group, plans: Sequence[Plan]) -> None:
    if not plans:
        return
    made = await make_batches(
        group,
        [
            (plan.submission.owner, plan.submission.batch, len(plan.new))
            for plan in plans
            if plan.submission.batch is not None
        ],
    )
    for plan in plans:
        plan.batch = made[plan.batch_id or b""]


async def make_batches(
    group: Group, batches: Sequence[tuple[int, BatchSpec, int]]
) -> dict[bytes, int]:
    """Store new batches (owner, batch, total); their numbers by id."""
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
        )
        for owner, batch, total in batches
    ]
    return dict(await group.fetch(_MAKE_BATCHES, *columns(rows), group.now))


async def _grow_batches(group: Group, plans: Sequence[Plan]) -> None:
    """Add to the totals of open batches, and give the new members their positions."""
    if not plans:
        return
    counts: Counter[int] = Counter()
    for plan in plans:
        assert plan.batch is not None
        plan.position = counts[plan.batch]
        counts[plan.batch] += len(plan.new)
    before = dict(await group.fetch(_GROW, *columns(sorted(counts.items()))))
    for plan in plans:
        assert plan.batch is not None
        plan.position += before[plan.batch]
        group.grown.add(plan.batch)
