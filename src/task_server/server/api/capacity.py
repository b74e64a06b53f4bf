"""`/v1/capacity`: what fits until a moment."""

from __future__ import annotations

from datetime import UTC, datetime

from task_server.errors import Invalid
from task_server.protocol.tasks import Capacity, Quantiles, SlotsNeeded
from task_server.scheduling.capacity import Work, free_until
from task_server.server.http import Call, Reply, encode
from task_server.server.routing import USER, Route
from task_server.server.service import estimate, open_work
from task_server.server.state import State

LONGEST_SECONDS = 10 * 365 * 86400.0


async def get(state: State, call: Call) -> Reply:
    """Whether everybody's open work is done by a moment, and what fits until then besides."""
    finish_by = _moment(call.query("finish_by").get("finish_by"))
    seconds = finish_by - state.clock()
    if not 0.0 < seconds <= LONGEST_SECONDS:
        raise Invalid("finish_by is a time that comes, within ten years", field="finish_by")
    piles = await estimate.open_piles(state, None)
    longest = max((pile.price.p50 * min(pile.count, 1.0) for pile in piles), default=0.0)
    work = Work(estimate.total(piles), longest)
    slots = await estimate.slots(state)
    told = Capacity(
        finish_by=datetime.fromtimestamp(finish_by, UTC),
        seconds=seconds,
        slots=slots,
        core_seconds=slots * seconds,
        queued=work.core_seconds,
        unknown_tasks=sum(pile.tasks for pile in piles if not pile.price.is_known),
        free=free_until(work, slots=slots, seconds=seconds),
        eta=work.eta(slots),
        slots_needed=work.slots_for(seconds),
    )
    simulated = await open_work.simulated(state, within=seconds)
    if simulated is not None and simulated.eta is not None:
        told.queued = Quantiles(*simulated.total)
        told.free = free_until(Work(told.queued), slots=slots, seconds=seconds)
        told.eta = Quantiles(*simulated.eta)
        told.slots_needed = SlotsNeeded(*simulated.slots)
    return Reply(encode(told))


def _moment(text: str | None) -> float:
    try:
        found = datetime.fromisoformat((text or "").replace(" ", "+"))  # an unquoted + is a blank
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        message = "finish_by is a time with its offset, such as 2030-01-31T18:00:00Z"
        raise Invalid(message, field="finish_by")
    return found.timestamp()


ROUTES = [Route("GET", "/v1/capacity", get, USER)]
