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
from task_server.scheduling.histogram import BINS, seconds_at
from task_server.scheduling.statistics import Price, Statistics, guess
from task_server.scheduling.totals import Ahead, Sum
from task_server.server.state import State
from task_server.store.contract import KindSpec
from task_server.store.sqlite.memory import Session, function_key

MAXIMUM_CALLS = 1000
"""More calls than this are listed only if asked for."""
AHEAD_SECONDS = 0.1


class Pile(Struct):
    """A number of calls of one function."""

    count: float
    price: Price
    statistics: Statistics | None


def price_of(state: State, spec: KindSpec) -> Price:
    """The predicted run time of one call."""
    known = state.store.statistics(*function_key(spec))
    return price_known(state, known, spec.owner)


def price_known(state: State, known: Statistics | None, owner: int) -> Price:
    """The price from a function's own calls, else the owner's first calls, else the server's."""
    if known is not None and known.calls:
        return known.price()
    memory = state.store.memory
    kinds = list(memory.kinds.values())
    own = {kind.function for kind in kinds if kind.spec.owner == owner}
    first = _median_first(memory.functions_by_number[each] for each in own)
    if first is not None:
        return guess(first, "owner")
    return guess(_median_first(list(memory.functions.values())), "server")


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


def live_sessions(state: State) -> list[Session]:
    """Workers that are heard of."""
    now = state.clock()
    sessions = list(state.store.memory.sessions.values())
    return [each for each in sessions if each.alive_until > now and not each.facts.is_plain]


def slots(state: State) -> int:
    """How many tasks can run at once."""
    return sum(session.facts.slots for session in live_sessions(state))


def waiting_piles(state: State, owner: int | None) -> list[Pile]:
    """Queued work by kind; `owner` None: everybody's."""
    memory = state.store.memory
    piles = []
    for number, count in list(memory.load.items()):
        kind = memory.kinds.get(number)
        if count > 0 and kind is not None and (owner is None or kind.spec.owner == owner):
            known = memory.functions_by_number[kind.function]
            piles.append(Pile(count, price_known(state, known, kind.spec.owner), known))
    return piles


def running_piles(state: State, owner: int | None) -> list[Pile]:
    """What is left of running tasks."""
    now = state.clock()
    memory = state.store.memory
    piles = []
    for session in list(memory.sessions_by_row.values()):
        for running in list(session.leases.values()):
            if owner is not None and running.kind.spec.owner != owner:
                continue
            known = memory.functions_by_number[running.kind.function]
            price = price_known(state, known, running.kind.spec.owner)
            left = remaining(price, known, now - running.started_at)
            piles.append(Pile(left / price.p50 if price.p50 else 0.0, price, known))
    return piles


def remaining(price: Price, known: Statistics | None, elapsed: float) -> float:
    """Median seconds left of a call that runs since `elapsed`: a prediction outlived is corrected.

    Of the calls that took longer than that, half have ended after this; without any such call, as
    long again as it took.
    """
    if known is None or not known.calls:
        return max(price.p50 - elapsed, elapsed)
    counts = known.histogram.counts
    longer = [i for i in range(BINS) if counts[i] and seconds_at(i + 0.5) > elapsed]
    half = sum(counts[i] for i in longer) / 2
    for index in longer:
        half -= counts[index]
        if half <= 0:
            return seconds_at(index + 0.5) - elapsed
    return elapsed


def ahead(state: State) -> Ahead:
    """What is ahead of a new task; looked up anew ten times a second, not for each submit."""
    now = state.clock()
    if state.ahead is None or state.ahead.until <= now:
        state.ahead = look_ahead(state)
    return state.ahead


def look_ahead(state: State) -> Ahead:
    """The same, as of now."""
    piles = [*waiting_piles(state, None), *running_piles(state, None)]
    return Ahead(state.clock() + AHEAD_SECONDS, sum_of(piles), slots(state))


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


def basis_of(price: Price) -> Basis:
    """What a price rests on."""
    return Basis(price.calls, price.model)


def task_estimate(predicted: float, high: float, calls: int) -> TaskEstimate:
    """The estimate as it was made at submit."""
    is_known = predicted >= 0
    basis = Basis(calls, "history" if is_known else "guess")
    return TaskEstimate(abs(predicted), high, is_known, basis)


def of_submit(
    state: State,
    specs: Sequence[KindSpec],
    prices: Sequence[Price],
    counts: Sequence[int],
    *,
    calls: Sequence[int] | None = None,
) -> Estimate:
    """The estimate of a request's tasks; `calls`: spec of each call, to list them one by one."""
    piles = [
        Pile(count, price, state.store.statistics(*function_key(spec)))
        for spec, price, count in zip(specs, prices, counts, strict=True)
    ]
    own = sum_of(piles)
    before = ahead(state)
    known = [pile.statistics for pile in piles if pile.statistics and pile.statistics.calls]
    return Estimate(
        total=CoreSeconds(
            own.quantiles(), sum(int(pile.count) for pile in piles if not pile.price.is_known)
        ),
        eta=eta(
            before.work.plus(own),
            before.slots,
            longest=max((price.p50 for price in prices), default=0.0),
        ),
        install_seconds=_install_seconds(known),
        memory_bytes=max((each.peak_bytes for each in known), default=0) or None,
        calls=UNSET if calls is None else [call_estimate(prices[index]) for index in calls],
    )


def _install_seconds(known: Sequence[Statistics]) -> float | None:
    calls = sum(each.calls for each in known)
    if not calls:
        return None
    return max(each.install_seconds / each.calls for each in known if each.calls)
