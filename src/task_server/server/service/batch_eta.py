"""What is left of a batch, and when it is done, as the model sees it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from task_server.protocol.tasks import Quantiles
from task_server.scheduling.progress import Look, Pace
from task_server.server.estimator.messages import Ask, Fleet, Told
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
OTHERS = 0.05
"""Other work of so small a part takes nothing of a batch's pace."""


async def left_of(
    state: State, row: BatchRow, open_kinds: Sequence[tuple[Kind, int]]
) -> Left | None:
    """What is left of a batch; None: the table has to tell. `open_kinds`: of its members."""
    if not state.estimator.is_on or row.ended == row.total:
        return None
    return await state.etas.left(row, lambda before: _work_out(state, row, open_kinds, before))


async def _work_out(
    state: State, row: BatchRow, open_kinds: Sequence[tuple[Kind, int]], before: Left | None
) -> Left | None:
    at = state.clock()
    waits = row.queued + row.delayed
    seen = await _waiting(state, row) if waits else []
    calls = model.sampled(seen, SAMPLED_CALLS)
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
    look = None
    if fleet is not None and calls:
        look = _look(row, at, fleet, [call.number for call in calls], found)
    pace = Pace() if before is None else before.pace
    if before is not None and before.look is not None:
        still = {call.number for call in seen}
        pace = pace.after(before.look, at=at, still_waiting=still)
        if look is not None:
            pace = pace.rebased(before.look.waiting, look.waiting)
            look = look.following(before.look, still_waiting=still)
    eta = None if found.eta is None else Quantiles(*found.eta)
    return Left(at, row.ended, Quantiles(*found.total), eta, look, pace)


def _look(row: BatchRow, at: float, fleet: Fleet, numbers: Sequence[int], told: Told) -> Look:
    """What is seen now; the model's total includes what is left of the members that run."""
    own = sum(middle for _, middle, _ in fleet.running[: fleet.own])
    others = sum(middle for _, middle, _ in fleet.running[fleet.own :]) + fleet.ahead[1]
    core_seconds = max(told.total[1] - own, 0.0)
    waiting = [(n, p50) for n, (_, p50, *_) in zip(numbers, told.quantiles, strict=True)]
    if not row.in_order:
        waiting.sort(key=lambda each: -each[1])
    return Look(
        at,
        at,
        row.ended,
        dict(waiting),
        row.queued + row.delayed,
        core_seconds,
        sum(slots for _, slots in fleet.slots),
        is_alone=others <= OTHERS * core_seconds,
    )


async def _waiting(state: State, row: BatchRow) -> list[OpenCall]:
    """The members that wait, or those of some that were chosen once and for all."""
    if row.total <= LOOKED_AT:
        positions: Sequence[int] = range(row.total)
    else:
        # Always the same: from one look to the next only what has ended makes a difference.
        positions = random.Random(row.batch).sample(range(row.total), LOOKED_AT)
    return await state.store.waiting_calls(row.batch, positions)
