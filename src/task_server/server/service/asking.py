"""The estimate that somebody asks for: the model's where it can tell, else the table's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from task_server.protocol.tasks import CallEstimate, Estimate, EtaOnSlots, Quantiles
from task_server.server.estimator.messages import Fleet, Range, Told
from task_server.server.service import estimate, model
from task_server.server.service.fleet import fleet_for
from task_server.server.service.model import TIMES
from task_server.server.service.requests import Body
from task_server.server.state import State


async def asked(state: State, read: Body, *, lists_calls: bool) -> Estimate:
    """What the tasks of a body would cost; `lists_calls`: each of them, too."""
    counts = [0] * len(read.specs)
    for task in read.tasks:
        counts[task.spec] += 1
    prices = [estimate.price_of(state, spec) for spec in read.specs]
    own = estimate.piles_of(state, read.specs, prices, counts)
    found = estimate.of_submit(
        own,
        await estimate.ahead(state),
        calls=[task.spec for task in read.tasks] if lists_calls else None,
    )
    fleet = await fleet_for(state, own=own)
    told = await model.tell(state, read, lists_calls=lists_calls, fleet=fleet)
    if told is not None:
        _correct(state, found, read, told, lists_calls=lists_calls, fleet=fleet)
    return found


def _correct(
    state: State,
    found: Estimate,
    read: Body,
    told: Told,
    *,
    lists_calls: bool,
    fleet: Fleet | None,
) -> None:
    """Put what the model told in the place of what the table said."""
    if lists_calls:
        found.calls = _calls(state, read, told)
    found.total.core_seconds = Quantiles(*told.total)
    if told.eta is not None and fleet is not None:
        found.eta = Quantiles(*told.eta)
        slots = sum(count for _, count in fleet.slots)
        found.eta_by_slots = [
            EtaOnSlots(times * slots, eta)
            for times, eta in zip(TIMES, _falling([told.eta, *told.etas]), strict=True)
        ]


def _falling(etas: Sequence[Range]) -> Iterator[Quantiles]:
    """As quantiles, none above the one before it: more slots make nothing later."""
    least = [math.inf] * 3
    for eta in etas:
        least = list(map(min, least, eta))
        yield Quantiles(*least)


def _calls(state: State, read: Body, told: Told) -> list[CallEstimate]:
    prices = [estimate.price_of(state, spec) for spec in read.specs]
    return [
        estimate.call_told(prices[task.spec], quantiles, told.bases[task.spec])
        for task, quantiles in zip(read.tasks, told.quantiles, strict=True)
    ]
