"""Has the estimator learn from the tasks that have ended, in order, off the path of requests.

Places among the ended tasks of a server follow each other without gaps, so that a sample needs no
search: it is a choice of places. All of them are learned from while they are few; of many, one of
each 2, 4, 8 and so on, so that the estimator needs a tenth of a processor at most. A function's
first calls are looked for besides.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import msgspec

from task_server.errors import Unavailable
from task_server.server.estimator.messages import Arguments, Known, Learn, Learned, Sample
from task_server.server.service import model
from task_server.server.state import State
from task_server.store.contract import Ended
from task_server.store.records.learning import EndedAttempt

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Between two looks at what has ended."""
QUIET_SECONDS = 5.0
"""The same while nothing ends here: others may have ended something."""
SHARE = 0.1
"""Of one processor, for learning."""
SAVED_SECONDS = 1.0
"""How much of that may be saved up: a burst of new calls is learned at once."""
FIRST_SECONDS = 0.0005
"""What a call is taken to cost before any was measured."""
SPAN = 20_000
"""Places looked at together."""
FIRST_CALLS = 100
"""So many calls of each function are learned from, however many others end meanwhile."""
AT_ONCE = 32
"""Samples in one message: whoever asks meanwhile waits for one to be done."""
LEARN_SECONDS = 60.0
_SCRAMBLE = 0x9E3779B97F4A7C15


class Teacher:
    """Reads ended tasks and tells the estimator of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._news = asyncio.Event()
        self._places: dict[int, int] = {}
        """Server -> how far its ended tasks were looked at."""
        self._start = 0
        """Which start of the estimator was taught."""
        self._learned: dict[int, int] = {}
        """Function -> calls of it that were learned from."""
        self._counted: dict[int, int] = {}
        """Function -> how many attempts of it had ended at the last look."""
        self._saved_seconds = SAVED_SECONDS
        self._saved_at = time.monotonic()
        self._call_seconds = FIRST_SECONDS

    def hear(self, ended: Sequence[Ended]) -> None:
        """Tasks have ended."""
        self._news.set()
        self._state.estimator.need()

    async def run(self) -> None:
        """Teach until cancelled."""
        while self._state.estimator.is_on:
            waiter = asyncio.ensure_future(self._news.wait())
            await asyncio.wait((waiter,), timeout=QUIET_SECONDS)
            waiter.cancel()
            await asyncio.sleep(LOOK_SECONDS)
            self._news.clear()
            try:
                await self._look()
            except Unavailable as error:
                log.warning("learning goes on later: %s", error)

    async def _look(self) -> None:
        estimator = self._state.estimator
        if estimator.pid is None or not await self._state.store.leads():
            return
        if self._start != estimator.starts:
            self._begin_anew()
        for server, last in sorted((await self._state.store.last_places()).items()):
            while self._places.get(server, 0) < last:
                if not await self._span(server, last):
                    return

    def _begin_anew(self) -> None:
        self._start = self._state.estimator.starts
        self._places.clear()
        self._learned.clear()
        self._counted.clear()

    async def _span(self, server: int, last: int) -> bool:
        """Learn from the next places of a server; False when the estimator went away."""
        after = self._places.get(server, 0)
        until = min(last, after + SPAN)
        until, places = await self._chosen(server, after, until, await self._afford(until - after))
        attempts = await self._state.store.ended_attempts(server, places)
        if not await self._teach(attempts):
            return False
        self._places[server] = until
        return True

    # ---- which

    async def _afford(self, wanted: int) -> int:
        """How many samples may be taken now; waits until it is worth the while."""
        while True:
            now = time.monotonic()
            self._saved_seconds += (now - self._saved_at) * SHARE
            self._saved_seconds = min(self._saved_seconds, SAVED_SECONDS)
            self._saved_at = now
            samples = int(self._saved_seconds / self._call_seconds)
            if samples >= min(wanted, AT_ONCE):
                return samples
            await asyncio.sleep(LOOK_SECONDS)

    async def _chosen(
        self, server: int, after: int, until: int, samples: int
    ) -> tuple[int, list[int]]:
        """How far to go, and the places to learn from."""
        level = 0
        while (until - after) >> level > samples:
            level += 1
        if not level:
            return until, list(range(after + 1, until + 1))
        places = set(places_sampled(after, until, level))
        if young := self._young():
            first = await self._state.store.places_of(
                server, after=after, until=until, functions=young, limit=FIRST_CALLS
            )
            if len(first) >= FIRST_CALLS:  # there may be more behind: go no further
                until = first[-1]
            places = {place for place in places if place <= until}.union(first)
        return until, sorted(places)

    def _young(self) -> list[int]:
        """Functions that few calls were learned from, and that were called since the last look."""
        found = []
        for _, statistics in self._state.store.functions():
            function = statistics.function
            attempts = statistics.calls + statistics.failures
            if (
                self._learned.get(function, 0) < FIRST_CALLS
                and self._counted.get(function, 0) < attempts
            ):
                found.append(function)
            self._counted[function] = attempts
        return found

    # ---- teaching

    async def _teach(self, attempts: Sequence[EndedAttempt]) -> bool:
        samples = [sample for each in attempts if (sample := await self._sample(each))]
        for start in range(0, len(samples), AT_ONCE):
            some = samples[start : start + AT_ONCE]
            reply = await self._state.estimator.ask(Learn(some), seconds=LEARN_SECONDS)
            if not isinstance(reply, Learned):
                return False
            self._note(len(some), reply)
        return True

    def _note(self, count: int, reply: Learned) -> None:
        self._learned.update(reply.calls)
        self._saved_seconds -= reply.cpu_seconds
        self._call_seconds += 0.2 * (reply.cpu_seconds / count - self._call_seconds)
        self._call_seconds = max(self._call_seconds, 1e-5)

    async def _sample(self, attempt: EndedAttempt) -> Sample | None:
        """What there is to learn from an attempt; None: nothing."""
        outcome = "succeeded" if attempt.is_success else _failure(attempt.error)
        if outcome is None:
            return None
        spec = attempt.spec
        versions = await model.versions_of(self._state, spec, attempt.environment)
        return Sample(
            Known(attempt.function, model.name_of(spec.function_key), versions),
            Arguments(attempt.payload or b"", attempt.size, attempt.features),
            attempt.worker,
            outcome,
            attempt.used.run_seconds,
        )


class _Kind(msgspec.Struct):
    kind: str = ""


_kinds = msgspec.json.Decoder(_Kind)


def _failure(error: bytes | None) -> str | None:
    """`timeout` or `failed` where the function itself ran; None where it did not, or was lost."""
    kind = _kinds.decode(error).kind if error else ""
    if kind == "timeout":
        return "timeout"
    return "failed" if kind in ("exception", "out_of_memory", "too_big") else None


def places_sampled(after: int, until: int, level: int) -> list[int]:
    """Of the places beyond `after`, up to `until`, one of each 2^level: the same at each look."""
    found = []
    for block in range(after >> level, (until >> level) + 1):
        place = (block << level) + ((block * _SCRAMBLE % 2**64) >> (64 - level))
        if after < place <= until:
            found.append(place)
    return found
