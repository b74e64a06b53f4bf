"""What is left of a batch, and when it is done, as the model sees it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from task_server.protocol.tasks import Quantiles
from task_server.server.estimator.messages import Ask
from task_server.server.etas import Left
from task_server.server.service import estimate, model
from task_server.server.service.fleet import fleet_for
from task_server.server.state import State
from task_server.store.kinds import Kind
from task_server.store.records.calls import OpenCall
from task_server.store.rows import BatchRow

SAMPLED_CALLS = 256
LOOKED_AT = 2048
"""Members looked at for so many that wait."""


async def left_of(
    state: State, row: BatchRow, open_kinds: Sequence[tuple[Kind, int]]
) -> Left | None:
    """What is left of a batch; None: the table has to tell. `open_kinds`: of its members."""
    if not state.estimator.is_on or row.ended == row.total:
        return None
    return await state.etas.left(row, lambda: _work_out(state, row, open_kinds))


async def _work_out(
    state: State, row: BatchRow, open_kinds: Sequence[tuple[Kind, int]]
) -> Left | None:
    at = state.clock()
    waits = row.queued + row.delayed
    calls = await _sampled(state, row) if waits else []
    if waits and not calls:
        return None
    kinds = {kind.number: kind for kind, _ in open_kinds}
    running = [
        (kinds[call.kind], call.started_at)
        for call in await state.store.running_calls(row.batch)
        if call.kind in kinds and call.started_at is not None
    ]
    started = Counter(kind.number for kind, _ in running)
    waiting = [(kind, count - started[kind.number]) for kind, count in open_kinds]
    own = [estimate.pile_of(state, *each) for each in waiting]
    fleet = await fleet_for(state, own=own, waiting=waiting, running=running)
    known, specs, told = await model.as_asked(state, calls)
    found = await model.ask_of(
        state,
        Ask(known, told, count=max(waits, len(calls)), in_order=row.in_order, fleet=fleet),
        specs,
    )
    if found is None:
        return None
    eta = None if found.eta is None else Quantiles(*found.eta)
    return Left(at, row.ended, Quantiles(*found.total), eta)


async def _sampled(state: State, row: BatchRow) -> list[OpenCall]:
    """Some of the members that wait: all of them where they are few."""
    if row.total <= LOOKED_AT:
        positions: Sequence[int] = range(row.total)
    else:
        # Always the same: from one look to the next only what has ended makes a difference.
        positions = random.Random(row.batch).sample(range(row.total), LOOKED_AT)
    return model.sampled(await state.store.waiting_calls(row.batch, positions), SAMPLED_CALLS)
