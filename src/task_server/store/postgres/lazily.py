"""What is written now and then: owners' shares, workers' speeds, this server's places."""

from __future__ import annotations

from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.postgres.loading import SHARES

# Server 0 has what owners were lifted by: locked first, so that two servers lift one once.
_LOCK_LIFTS = """
INSERT INTO shares AS s (owner, server, charged_seconds)
SELECT owner, 0, 0 FROM unnest($1::int[]) AS owner ORDER BY owner
ON CONFLICT (owner, server) DO UPDATE SET charged_seconds = s.charged_seconds"""
_LIFT = """
UPDATE shares l SET charged_seconds = l.charged_seconds + greatest(0, w.share - (
         SELECT sum(s.charged_seconds) FROM shares s WHERE s.owner = w.owner))
  FROM unnest($1::int[], $2::float8[]) AS w(owner, share)
 WHERE l.owner = w.owner AND l.server = 0"""
_CHARGE = """
INSERT INTO shares AS s (owner, server, charged_seconds)
SELECT w.owner, $3, w.seconds FROM unnest($1::int[], $2::float8[]) AS w(owner, seconds)
ON CONFLICT (owner, server) DO UPDATE SET
  charged_seconds = s.charged_seconds + excluded.charged_seconds"""
_SPEEDS = """
UPDATE workers k SET runs = w.runs, slowness = w.slowness
  FROM unnest($1::int[], $2::int[], $3::float8[]) AS w(worker, runs, slowness)
 WHERE k.worker = w.worker"""
_PLACES = "UPDATE servers SET next_n = greatest(next_n, $2) WHERE server = $1"


async def write_lazily(group: Group) -> None:
    """Tell the others this server's charges, and hear of theirs."""
    memory, shares = group.memory, group.memory.shares
    if shares.lifted:
        lifted = sorted(shares.lifted.items())
        await group.execute(_LOCK_LIFTS, [owner for owner, _ in lifted])
        await group.execute(_LIFT, *columns(lifted))
    if shares.moved:
        await group.execute(_CHARGE, *columns(sorted(shares.moved.items())), memory.server)
    if learned := memory.placement.unsaved():
        await group.execute(_SPEEDS, *columns(learned))
        group.on_commit.append(lambda: memory.placement.saved(learned))
    await group.execute(_PLACES, memory.server, memory.next_n)
    sums = dict(await group.fetch(SHARES))
    group.on_commit.append(lambda: shares.take(sums))
    group.on_commit.append(lambda: setattr(memory, "written_n", group.first_n))
