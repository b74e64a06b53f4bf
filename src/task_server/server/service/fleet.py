"""The fleet and its queue, as the estimator simulates them."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.remaining import remaining
from task_server.scheduling.totals import Sum
from task_server.server.estimator.messages import Fleet, Range
from task_server.server.service import estimate
from task_server.server.state import State
from task_server.store.kinds import Kind

MAXIMUM_RUNNING = 2048
"""More running calls are not looked at one by one."""
Running = tuple[Kind, float]
"""Kind and start of a running task."""


async def fleet_for(
    state: State,
    *,
    own: Sequence[estimate.Pile],
    waiting: Sequence[tuple[Kind, int]] = (),
    running: Sequence[Running] = (),
) -> Fleet | None:
    """The workers there are, and what they do before and beside some work; None: nobody is there.

    `own`: the work. `waiting`, `running`: what of the open tasks is part of it.
    """
    sessions = await estimate.live_sessions(state)
    if not sessions:
        return None
    others = list(await state.store.running(None))
    for each in running:
        if each in others:
            others.remove(each)
    left = [_left(state, *each) for each in (*running, *others)[:MAXIMUM_RUNNING]]
    return Fleet(
        [(session.id, session.facts.slots) for session in sessions],
        left,
        min(len(running), MAXIMUM_RUNNING),
        await _ahead(state, own, {kind.number: count for kind, count in waiting}),
    )


def _left(state: State, kind: Kind, started_at: float) -> Range:
    pile = estimate.pile_of(state, kind, 1.0)
    elapsed = max(state.clock() - started_at, 0.0)
    return remaining(pile.price, pile.statistics, elapsed)


async def _ahead(state: State, own: Sequence[estimate.Pile], waiting: dict[int, int]) -> Range:
    """Core-seconds of other work that goes first.

    Shorter calls do, all of them. Of longer ones as much as there is own work: so much the ageing
    of one owner's, and the fair share of others', let pass at most.
    """
    seconds = sum(pile.count * pile.price.p50 for pile in own)
    longest = max((pile.price.p50 for pile in own), default=0.0)
    shorter, longer = Sum(), Sum()
    for kind, count in await state.store.queued(None):
        pile = estimate.pile_of(state, kind, max(count - waiting.get(kind.number, 0), 0))
        if pile.price.p50 <= longest:
            shorter = shorter.plus(estimate.sum_of([pile]))
        else:
            longer = longer.plus(estimate.sum_of([pile]))
    first, then = shorter.quantiles(), longer.quantiles()
    return (
        first.p10 + min(then.p10, seconds),
        first.p50 + min(then.p50, seconds),
        first.p90 + min(then.p90, seconds),
    )
