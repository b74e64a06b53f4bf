"""Prices what waits anew, by the model: tasks were priced by their function alone when they came.

Next due first, of functions that take much longer than pricing a call does and whose arguments
were seen to matter. Written back only where the power of two changed, by which tasks are ordered.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from task_server.errors import Unavailable
from task_server.scheduling.order import rounded_up
from task_server.server.estimator.messages import Ask, Told
from task_server.server.service import model
from task_server.server.state import State
from task_server.server.upkeep.learn import Teacher
from task_server.store.contract_learning import NewPrice
from task_server.store.records.calls import FIRST, OpenCall, WaitingCall

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two rounds over the lanes."""
REST = 10.0
"""After a page nothing is looked at for so many times as long as it took."""
LONGEST_REST_SECONDS = 10.0
WORTH = 100.0
"""A call has to take so many times as long as pricing it."""
FIRST_SECONDS = 0.0002
"""What pricing a call is taken to cost before any was measured."""
PAGE = 256
LANES = 64
"""Of one round."""
MAXIMUM_SEEN = 50_000


class Refiner:
    """Goes through the lanes, page by page, again and again."""

    def __init__(self, state: State, teacher: Teacher) -> None:
        self._state = state
        self._teacher = teacher
        self._call_seconds = FIRST_SECONDS
        self._cursors: dict[int, tuple[float, float, int]] = {}
        """Lane -> key of the last task that was looked at."""
        self._seen: dict[int, int] = {}
        """Task -> calls of its function that were learned from when it was priced."""

    async def run(self) -> None:
        """Price until cancelled."""
        while self._state.estimator.is_on:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._round()
            except Unavailable as error:
                log.warning("what waits is priced later: %s", error)

    async def _round(self) -> None:
        functions = self._worthwhile()
        if not functions:
            return
        queued = await self._state.store.queued(None)
        lanes = sorted({kind.lane for kind, _ in queued if kind.function in functions})
        self._cursors = {lane: self._cursors[lane] for lane in lanes if lane in self._cursors}
        # Those that were looked at least recently come first.
        for lane in sorted(lanes, key=lambda lane: lane in self._cursors)[:LANES]:
            await self._page(lane, functions)

    def _worthwhile(self) -> set[int]:
        """Functions whose waiting calls are worth a look."""
        least = WORTH * self._call_seconds
        return {
            known.function
            for _, known in self._state.store.functions()
            if self._teacher.calls(known.function) and known.calls and known.price().p50 >= least
        }

    async def _page(self, lane: int, functions: set[int]) -> None:
        began = time.monotonic()
        found = await self._state.store.waiting_in(lane, self._cursors.get(lane, FIRST), PAGE)
        if len(found) == PAGE:
            self._cursors[lane] = found[-1].key
        else:
            self._cursors.pop(lane, None)  # from the start again, for what has come meanwhile
        calls = list(self._news(found, functions))
        if calls:
            await self._price(calls)
        await asyncio.sleep(min(REST * (time.monotonic() - began), LONGEST_REST_SECONDS))

    async def _price(self, calls: Sequence[OpenCall]) -> None:
        told = await self._ask(calls)
        if told is None:
            return
        if changed := list(_changed(calls, told)):
            await self._state.store.reprice(changed)
        self._note(calls)

    def _news(self, found: Sequence[WaitingCall], functions: set[int]) -> Iterator[OpenCall]:
        """Calls that were not priced yet, or when much less was known.

        Where arguments do not matter, only those that came when nothing was known.
        """
        varied = self._teacher.varied
        for each in found:
            call = each.call
            is_worth_it = call.function in varied or (
                call.predicted < 0 and call.function in functions
            )
            known = self._teacher.calls(call.function)
            if is_worth_it and known >= 2 * self._seen.get(call.number, 0):
                yield call

    async def _ask(self, calls: Sequence[OpenCall]) -> Told | None:
        known, specs, told = await model.as_asked(self._state, calls)
        answer = await model.ask_of(self._state, Ask(known, told, count=len(calls)), specs)
        if answer is not None:
            seconds = answer.cpu_seconds / len(calls)
            self._call_seconds += 0.2 * (seconds - self._call_seconds)
        return answer

    def _note(self, calls: Sequence[OpenCall]) -> None:
        for call in calls:
            self._seen.pop(call.number, None)
            self._seen[call.number] = self._teacher.calls(call.function)
        while len(self._seen) > MAXIMUM_SEEN:
            del self._seen[next(iter(self._seen))]


def _changed(calls: Sequence[OpenCall], told: Told) -> Iterator[NewPrice]:
    """The prices that order a task otherwise than its present one."""
    for call, (_, middle, high, _) in zip(calls, told.quantiles, strict=True):
        is_known = call.predicted >= 0
        before = (rounded_up(abs(call.predicted)), rounded_up(call.predicted_high))
        if not is_known or before != (rounded_up(middle), rounded_up(high)):
            yield NewPrice(call.number, call.attempt, middle, high)
