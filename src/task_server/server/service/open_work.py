"""Everybody's open work, as the estimator simulates it call by call."""

from __future__ import annotations

from task_server.server.estimator.messages import Ask, Told
from task_server.server.service import estimate, model
from task_server.server.service.fleet import fleet_for
from task_server.server.state import State
from task_server.store.records.calls import FIRST, WaitingCall

MOST_CALLS = 1000
"""Of more than that no single call makes a difference: the work is shared evenly."""
MOST_LANES = 64


async def simulated(state: State, *, within: float) -> Told | None:
    """When it is done on the workers there are, and on how many slots within so many seconds.

    None: there is nothing or too much of it, nobody to do it, or no model that can tell.
    """
    if not state.estimator.is_on:
        return None
    queued, running = await state.store.queued(None), await state.store.running(None)
    waits = sum(count for _, count in queued)
    lanes = {kind.lane for kind, _ in queued}
    if not 0 < waits + len(running) <= MOST_CALLS or len(lanes) > MOST_LANES:
        return None
    own = [estimate.pile_of(state, *each) for each in queued]
    fleet = await fleet_for(state, own=own, waiting=queued, running=running)
    found = await _waiting(state, lanes)
    if fleet is None or (waits and not found):
        return None
    known, specs, calls = await model.as_asked(state, [each.call for each in found])
    asked = Ask(
        known, calls, count=max(waits, len(calls)), in_order=True, fleet=fleet, within=within
    )
    return await model.ask_of(state, asked, specs)


async def _waiting(state: State, lanes: set[int]) -> list[WaitingCall]:
    """Next due first."""
    found = [
        each
        for lane in sorted(lanes)
        for each in await state.store.waiting_in(lane, FIRST, MOST_CALLS)
    ]
    return sorted(found, key=lambda each: each.key)
