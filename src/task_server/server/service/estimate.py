"""What calls will cost, from the table of what calls did cost; no model, no waiting."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from msgspec import UNSET, Struct

from task_server.protocol.tasks import (
    Basis,
    CallEstimate,
    CoreSeconds,
    Estimate,
    Quantiles,
    TaskEstimate,
)
from task_server.scheduling.remaining import remaining
from task_server.scheduling.statistics import Price, Statistics, guess
from task_server.scheduling.totals import Ahead, Sum
from task_server.server.estimator.messages import Basis as ModelBasis
from task_server.server.state import State
from task_server.store.kinds import Kind, KindSpec
from task_server.store.sessions import LiveSession

MAXIMUM_CALLS = 1000
"""More calls than this are listed only if asked for."""
AHEAD_SECONDS = 0.1


class Pile(Struct):
    """A number of calls of one function."""

    count: float
    price: Price
    statistics: Statistics | None
    is_running: bool = False
    """One call that has begun; `count` is how much of it is left."""

    @property
    def tasks(self) -> int:
        """Of so many tasks."""
        return 1 if self.is_running else round(self.count)


def price_of(state: State, spec: KindSpec) -> Price:
    """The predicted run time of one call."""
    known = state.store.statistics(spec.function_key)
    return price_known(state, known, spec.owner)


def price_known(state: State, known: Statistics | None, owner: int) -> Price:
    """The price from a function's own calls, else the owner's first calls, else the server's."""
    if known is not None and known.calls:
        return known.price()
    first = _median_first(state.store.called_by(owner))
    if first is not None:
        return guess(first, "owner")
    return guess(_median_first(known for _, known in state.store.functions()), "server")


def _median_first(functions: Iterable[Statistics]) -> float | None:
    seconds = [each.first_seconds for each in functions if each.calls]
    return statistics.median(seconds) if seconds else None


def sum_of(piles: Sequence[Pile]) -> Sum:
    """The sum of all piles.

    Each call varies by itself; how well a function's mean is known varies for all its calls.
    """
    found = Sum()
    for pile in piles:
        if pile.statistics is None or not pile.price.is_known:
            found.guessed += pile.count * pile.price.p50
            continue
        mean, variance = pile.statistics.moments()
        found.mean += pile.count * mean
        found.variance += pile.count * variance
        found.variance += pile.count**2 * (variance + mean**2 / 4) / pile.statistics.calls
    return found


def total(piles: Sequence[Pile]) -> Quantiles:
    """Core-seconds of all piles."""
    return sum_of(piles).quantiles()


# ---- the queue and the fleet


async def live_sessions(state: State) -> list[LiveSession]:
    """Workers that are heard of and can run any task."""
    return [each for each in await state.store.sessions() if not each.facts.is_plain]


async def slots(state: State) -> int:
    """How many tasks can run at once."""
    return _slots_of(await live_sessions(state))


def _slots_of(sessions: Iterable[LiveSession]) -> int:
    return sum(session.facts.slots for session in sessions)


def pile_of(state: State, kind: Kind, count: float) -> Pile:
    """So many calls of a kind."""
    known = state.store.statistics_of(kind)
    return Pile(count, price_known(state, known, kind.spec.owner), known)


async def open_piles(state: State, owner: int | None) -> list[Pile]:
    """What waits and what is left of what runs; `owner` None: everybody's."""
    waiting = [pile_of(state, *each) for each in await state.store.queued(owner)]
    now = state.clock()
    running = []
    for kind, started_at in await state.store.running(owner):
        pile = pile_of(state, kind, 0.0)
        _, left, _ = remaining(pile.price, pile.statistics, now - started_at)
        pile.count = left / pile.price.p50 if pile.price.p50 else 0.0
        pile.is_running = True
        running.append(pile)
    return waiting + running


async def ahead(state: State) -> Ahead:
    """What is ahead of a new task; looked up anew ten times a second, not for each submit."""
    now = state.clock()
    if state.ahead is None or state.ahead.until <= now:
        state.ahead = await look_ahead(state)
    return state.ahead


async def look_ahead(state: State) -> Ahead:
    """The same, as of now."""
    piles = await open_piles(state, None)
    sessions = await live_sessions(state)
    shares = [
        each.facts.memory // max(each.facts.slots, 1) for each in sessions if each.facts.memory
    ]
    return Ahead(
        state.clock() + AHEAD_SECONDS,
        sum_of(piles),
        _slots_of(sessions),
        min(shares, default=0),
    )


def eta(work: Sum, number: int, *, longest: float) -> Quantiles | None:
    """Seconds until `work` is done on that many slots; None without any."""
    if not number:
        return None
    seconds = work.quantiles()
    return Quantiles(
        max(seconds.p10 / number, longest / 3),
        max(seconds.p50 / number, longest),
        max(seconds.p90 / number, longest),
    )


# ---- what is told


def call_estimate(price: Price) -> CallEstimate:
    """One call's price as told."""
    return CallEstimate(price.p10, price.p50, price.p90, price.p99, price.is_known, basis_of(price))


def call_told(
    price: Price, quantiles: tuple[float, float, float, float], basis: ModelBasis
) -> CallEstimate:
    """One call as the model told it."""
    is_known = price.is_known or basis.calls > 0
    return CallEstimate(
        *quantiles,
        known=is_known,
        basis=Basis(basis.calls, "arguments" if basis.calls else "kin", basis.error_factor),
    )


def basis_of(price: Price) -> Basis:
    """What a price rests on."""
    return Basis(price.calls, price.model)


def task_estimate(predicted: float, high: float, calls: int) -> TaskEstimate:
    """The estimate as it was made at submit."""
    is_known = predicted >= 0
    basis = Basis(calls, "history" if is_known else "guess")
    return TaskEstimate(abs(predicted), high, is_known, basis)


def piles_of(
    state: State, specs: Sequence[KindSpec], prices: Sequence[Price], counts: Sequence[int]
) -> list[Pile]:
    """The calls of a request, by spec."""
    return [
        Pile(count, price, state.store.statistics(spec.function_key))
        for spec, price, count in zip(specs, prices, counts, strict=True)
    ]


def of_submit(
    piles: Sequence[Pile], before: Ahead, *, calls: Sequence[int] | None = None
) -> Estimate:
    """The estimate of a request's tasks; `calls`: pile of each call, to list them one by one."""
    own = sum_of(piles)
    known = [pile.statistics for pile in piles if pile.statistics and pile.statistics.calls]
    return Estimate(
        total=CoreSeconds(
            own.quantiles(), sum(int(pile.count) for pile in piles if not pile.price.is_known)
        ),
        eta=eta(
            before.work.plus(own),
            before.slots,
            longest=max((pile.price.p50 for pile in piles), default=0.0),
        ),
        install_seconds=_install_seconds(known),
        memory_bytes=max((each.peak_bytes for each in known), default=0) or None,
        calls=UNSET if calls is None else [call_estimate(piles[index].price) for index in calls],
    )


def _install_seconds(known: Sequence[Statistics]) -> float | None:
    calls = sum(each.calls for each in known)
    if not calls:
        return None
    return max(each.install_seconds / each.calls for each in known if each.calls)
