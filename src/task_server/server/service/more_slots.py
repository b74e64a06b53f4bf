"""What more slots would buy."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.protocol.tasks import Estimate, EtaOnSlots
from task_server.scheduling.capacity import Work, on_more_slots
from task_server.server.service import estimate
from task_server.server.service.model import TIMES
from task_server.server.state import State


async def eta_by_slots(state: State, told: Estimate, *, longest: float) -> list[EtaOnSlots]:
    """As the table tells it, where the model did not simulate it.

    The ETA on the slots there are, and on twice and four times as many; without any, on 1, 2, 4.
    `longest`: seconds of the longest call.
    """
    slots = await estimate.slots(state)
    numbers: Sequence[int] = [times * max(slots, 1) for times in TIMES]
    if told.eta is not None and slots:
        now = told.eta
        return [EtaOnSlots(n, on_more_slots(now, slots, n, longest=longest)) for n in numbers]
    before = await estimate.ahead(state)
    work = Work(told.total.core_seconds, longest).plus(Work(before.work.quantiles()))
    return [EtaOnSlots(n, eta) for n in numbers if (eta := work.eta(n)) is not None]
