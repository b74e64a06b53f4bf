"""T11 and T13: a task's owner ends it, or has it tried again."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.store import transitions
from task_server.store.postgres.anew import places_anew
from task_server.store.postgres.change import Changes, FullRow, lock_numbers, read_locked
from task_server.store.postgres.connection import PgRows
from task_server.store.postgres.group import Again, Group
from task_server.store.postgres.inserting import ask_for_locks
from task_server.store.postgres.known import columns
from task_server.store.records import history
from task_server.store.states import State
from task_server.store.transitions import Change

LIMIT = 10_000
"""Tasks of a batch cancelled in one group."""

_CLOSE = """
UPDATE batches SET is_open = 0 WHERE id = $1 AND (owner = $2 OR $2 IS NULL) RETURNING batch"""
_OPEN_MEMBERS = """
SELECT number FROM tasks WHERE batch = $1 AND state < 3 AND number + 0 > $2
 ORDER BY number + 0 LIMIT $3"""
_BEGIN_AGAIN = """
UPDATE tasks t SET state = 0, secret = NULL, outcome = NULL, encoding = NULL, usage = NULL,
       n = NULL, ended_at = NULL, first_read = NULL, ready_at = $5, due_at = w.due_at,
       tie = w.tie
  FROM unnest($1::bigint[], $2::int[], $3::float8[], $4::float8[])
    AS w(number, attempt, due_at, tie)
-- It must still have ended so; attempt never falls, also across generations.
 WHERE t.number = w.number AND t.state > 3 AND t.attempt = w.attempt"""
_COUNT_AGAIN = """
INSERT INTO task_extras AS x (number, generation) SELECT number, 1 FROM unnest($1::bigint[]) number
ON CONFLICT (number) DO UPDATE SET
  generation = x.generation + 1, errors = 0, crashes = 0, undelivered = 0, releases = 0,
  unstarted = 0, delayed_until = NULL, start_by = NULL"""
_KEEP_PLACES = """
-- Places among the finished are not given again: whoever reads them has passed them.
UPDATE servers s SET next_n = greatest(s.next_n, w.n + 1)
  FROM (SELECT server, max(n) AS n FROM unnest($1::int[], $2::bigint[]) AS u(server, n)
         GROUP BY server ORDER BY server) AS w
 WHERE s.server = w.server"""


async def find_cancelled(group: Group) -> None:
    """Which tasks the group is to cancel: to be locked with the reported ones, in one order."""
    for owner, ids, _ in group.cancels:
        group.named[owner, tuple(ids)] = await _own(group, owner, ids)


async def cancel_all(group: Group) -> None:
    """End tasks that are not terminal, and settle who wants it."""
    for owner, ids, operation in group.cancels:
        numbers = group.named[owner, tuple(ids)]
        rows = {row.id: row for row in await read_locked(group, await lock_numbers(group, numbers))}
        await _cancel(group, [row for row in rows.values() if not row.state.is_terminal])
        operation.settle([_status(rows.get(task)) for task in ids])


def _status(row: FullRow | None) -> int:
    if row is None or row.is_purged:
        return 404 if row is None else 410
    return transitions.cancel(row.state).status


async def cancel_batch(
    group: Group, owner: int | None, batch: bytes, *, unstarted: bool, after: int
) -> tuple[int, int | None] | None:
    """Close a batch and cancel what is open of it, up to LIMIT tasks with higher numbers.

    How many it were, and the last number if there may be more; None when there is no such batch.
    """
    closed = await group.fetch(_CLOSE, batch, owner)
    if not closed:
        return None
    group.is_durable = True
    group.grown.add(closed[0][0])
    numbers = [number for (number,) in await group.fetch(_OPEN_MEMBERS, closed[0][0], after, LIMIT)]
    # Also what runs is locked: of two, this and who gives it back, the later one ends it.
    locked = await read_locked(group, await lock_numbers(group, numbers))
    rows = [row for row in locked if not row.state.is_terminal]
    ending = [row for row in rows if not unstarted or row.state is not State.RUNNING]
    await _cancel(group, ending)
    if unstarted:
        await _withdraw(group, [row for row in rows if row.state is State.RUNNING])
    return len(ending), numbers[-1] if len(numbers) == LIMIT else None


async def close_batch(group: Group, owner: int | None, batch: bytes) -> bool:
    """No more tasks come."""
    closed = await group.fetch(_CLOSE, batch, owner)
    group.grown.update(number for (number,) in closed)
    group.is_durable = True
    return bool(closed)


async def _cancel(group: Group, rows: Sequence[FullRow]) -> None:
    changes = Changes(group)
    for row in rows:
        if row.state is State.RUNNING:
            changes.end_attempt(row, why="cancelled")
        changes.apply(row, Change(State.CANCELLED))
    await changes.write()


async def _withdraw(group: Group, rows: Sequence[FullRow]) -> None:
    """Ask for leases of tasks that may not have started: given back, these end."""
    changes = Changes(group)
    for row in rows:
        changes.withdraw(row)
    await changes.write()


async def retry(group: Group, owner: int | None, ids: Sequence[bytes]) -> list[int]:
    """Begin a new generation; the status to tell of each."""
    numbers = await lock_numbers(group, await _own(group, owner, ids))
    rows = {row.id: row for row in await read_locked(group, numbers)}
    again: dict[bytes, FullRow] = {}
    statuses = []
    for task in ids:
        row = rows.get(task)
        status = 404 if row is None else 410
        if row is not None and not row.is_purged:
            status = transitions.retry(row.state).status
        if row is not None and status == 200:
            status = 409 if task in again else 200
            again[task] = row
        statuses.append(status)
    if again:
        await _begin_generation(group, sorted(again.values(), key=lambda row: row.number))
    return statuses


async def _own(group: Group, owner: int | None, ids: Sequence[bytes]) -> set[int]:
    """Numbers of an owner's tasks; those of others are not told from those that do not exist."""
    found = await group.fetch(
        "SELECT t.number FROM unnest($1::bytea[]) AS w(id) JOIN tasks t ON t.id = w.id"
        " JOIN kinds k ON k.kind = t.kind WHERE k.owner = $2 OR $2 IS NULL",
        list(ids),
        owner,
    )
    return {number for (number,) in found}


async def _begin_generation(group: Group, rows: Sequence[FullRow]) -> None:
    group.is_durable = True
    numbers = [row.number for row in rows]
    for number in numbers:
        await history.keep(PgRows(group.connection), number)
    await ask_for_locks(group, [row.kind for row in rows])
    places = await places_anew(group, numbers)
    values = columns([(row.number, row.attempt, *places[row.number]) for row in rows])
    if await group.execute(_BEGIN_AGAIN, *values, group.now) != len(rows):
        raise Again("a task is not as it was read")
    await group.execute(_KEEP_PLACES, *columns([(row.server, row.n) for row in rows]))
    await group.execute(
        "DELETE FROM payloads WHERE number = ANY($1::bigint[]) AND part = 1", numbers
    )
    await group.execute(_COUNT_AGAIN, numbers)
    for row in rows:
        group.count_end(row.batch, row.state, -1)
        group.load[row.kind.number] += 1
        group.queue(row.kind.lane, places[row.number][0])
