"""Has the estimator learn from the tasks that have ended, in order, off the path of requests.

Places among the ended tasks of a server follow each other without gaps, so that a sample needs no
search: it is a choice of places. All of them are learned from while they are few; of many short
ones, which are alike, one of each 2, 4, 8 and so on: reading and telling them costs the server more
than there is to learn. Long calls and a function's first ones are looked for, within a tenth of a
processor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence

import msgspec

from task_server.errors import Unavailable
from task_server.server.estimator.messages import Arguments, Known, Learn, Learned, Sample
from task_server.server.service import model
from task_server.server.state import State
from task_server.server.upkeep.keep_model import ModelKeeper
from task_server.store.records.learning import EndedAttempt
from task_server.store.rows import Ended

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""Between two looks at what has ended, while there is something new to learn."""
CALM_SECONDS = 1.0
"""The same while all that ends is of short functions that are known well."""
QUIET_SECONDS = 5.0
"""The same while nothing ends here: others may have ended something."""
IDLE_SECONDS = 30.0
"""An estimator that nobody used for so long ends: with numpy it takes 20 MB."""
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
FEW = 32
"""Ended tasks that are all learned from where one of them is new; of more short ones about so many,
of known ones a quarter."""
AT_ONCE = 32
"""Samples in one message: whoever asks meanwhile waits for one to be done."""
LATE_SECONDS = 5.0
"""A function that was called so long ago has no calls that were not looked at."""
LEARN_SECONDS = 60.0
CLOSE_SECONDS = 5.0
"""For the last save."""
_SCRAMBLE = 0x9E3779B97F4A7C15


class Teacher:
    """Reads ended tasks and tells the estimator of them."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._news = asyncio.Event()
        self._keeper = ModelKeeper(state)
        self._turn = asyncio.Lock()
        """Held while the estimator is taught: nobody else has to do with what it knows."""
        self._is_closing = False
        self._start = 0
        """Which start of the estimator has what is kept; 0: none has."""
        self._led = False
        self._is_calm = False
        """The last look found something, and nothing new."""
        self._counted: dict[int, tuple[int, float]] = {}
        """Function -> how many attempts of it had ended, and when that was seen to change."""
        self._saved_seconds = SAVED_SECONDS
        self._saved_at = time.monotonic()
        self._call_seconds = FIRST_SECONDS

    @property
    def varied(self) -> Collection[int]:
        """Functions whose arguments were seen to matter, while this server teaches."""
        is_taught = self._led and self._start == self._state.estimator.starts
        return self._keeper.varied if is_taught else ()

    def calls(self, function: int) -> int:
        """How many calls of a function were learned from."""
        return self._keeper.calls.get(function, 0)

    def hear(self, ended: Sequence[Ended]) -> None:
        """Tasks have ended."""
        self._news.set()
        self._state.estimator.need()

    async def run(self) -> None:
        """Teach until cancelled."""
        while self._state.estimator.is_on:
            waiter = asyncio.ensure_future(self._news.wait())
            heard, _ = await asyncio.wait((waiter,), timeout=QUIET_SECONDS)
            waiter.cancel()
            await asyncio.sleep(CALM_SECONDS if self._is_calm else LOOK_SECONDS)
            self._news.clear()
            self._is_calm = bool(heard)
            async with self._turn:
                try:
                    await self._look()
                    await self._rest()
                except Unavailable as error:
                    log.warning("learning goes on later: %s", error)

    async def close(self) -> None:
        """Keep what was learned, for the next start."""
        self._is_closing = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS), self._turn:
                if self._led and self._start == self._state.estimator.starts:
                    await self._keeper.save(is_last=True)

    async def _look(self) -> None:
        estimator = self._state.estimator
        if estimator.pid is None or self._is_closing:
            return
        leads = await self._state.store.leads()
        if self._led and not leads:
            self._start = 0  # what it learned alone is of no use: another one learns now
        self._led = leads
        if self._start != estimator.starts:
            await self._begin()
        elif not leads:
            await self._keeper.follow()
        if leads and self._start == estimator.starts and not await self._learn():
            self._start = 0

    async def _rest(self) -> None:
        """Let an estimator end that nobody uses, when what it learned is kept."""
        estimator = self._state.estimator
        if estimator.pid is None or time.monotonic() - estimator.used_at < IDLE_SECONDS:
            return
        is_taught = self._led and self._start == estimator.starts
        if not is_taught or await self._keeper.save(is_last=True):
            estimator.rest()

    async def _begin(self) -> None:
        start = self._state.estimator.starts
        self._counted.clear()
        if await self._keeper.begin():
            self._start = start

    async def _learn(self) -> bool:
        """Learn from all that has ended; False when the estimator has to begin anew."""
        for server, last in sorted((await self._state.store.last_places()).items()):
            while self._keeper.trained_to.get(server, 0) < last and not self._is_closing:
                if not (await self._span(server, last) and await self._keeper.save()):
                    return False
        return await self._keeper.save()

    async def _span(self, server: int, last: int) -> bool:
        """Learn from the next places of a server; False when the estimator went away."""
        after = self._keeper.trained_to.get(server, 0)
        until = min(last, after + SPAN)
        until, places = await self._chosen(server, after, until, await self._afford(until - after))
        attempts = await self._state.store.ended_attempts(server, places)
        for start in range(0, len(attempts), AT_ONCE):
            if self._is_closing:
                return True
            some = attempts[start : start + AT_ONCE]
            if not await self._teach(some):
                return False
            self._keeper.trained_to[server] = some[-1].n
        self._keeper.trained_to[server] = until
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
            if samples >= min(wanted, AT_ONCE) or self._is_closing:
                return samples
            await asyncio.sleep(LOOK_SECONDS)

    async def _chosen(
        self, server: int, after: int, until: int, samples: int
    ) -> tuple[int, list[int]]:
        """How far to go, and the places to learn from."""
        wanted = self._wanted()
        self._is_calm &= not wanted
        few = FEW if wanted else FEW // 4
        if until - after <= min(samples, few):
            return until, list(range(after + 1, until + 1))
        places: list[int] = []
        if wanted:
            places = await self._state.store.places_of(
                server, after=after, until=until, functions=wanted, limit=FIRST_CALLS
            )
            if len(places) >= FIRST_CALLS:  # there may be more behind: go no further
                until = places[-1]
            places = model.sampled(places, samples)
        level = ((until - after) // few).bit_length()
        return until, sorted({*places, *places_sampled(after, until, level)})

    def _wanted(self) -> list[int]:
        """Functions that were called of late and of which no call is to be missed.

        Those that few calls were learned from, and those whose calls are long: among many short
        ones a sample would hardly ever find them.
        """
        now = time.monotonic()
        found = []
        for _, known in self._state.store.functions():
            attempts = known.calls + known.failures
            before, changed_at = self._counted.get(known.function, (0, now))
            if attempts != before:
                changed_at = now
            self._counted[known.function] = (attempts, changed_at)
            is_young = self.calls(known.function) < FIRST_CALLS
            is_long = not known.is_short and known.calls > 0
            # Counts and places of one end are not seen at one moment.
            if (is_young or is_long) and now - changed_at < LATE_SECONDS:
                found.append(known.function)
        return found

    # ---- teaching

    async def _teach(self, attempts: Sequence[EndedAttempt]) -> bool:
        """Tell of some attempts; False when the estimator did not take them."""
        samples = [sample for each in attempts if (sample := await self._sample(each))]
        if not samples:
            return True
        reply = await self._state.estimator.ask(Learn(samples), seconds=LEARN_SECONDS)
        if not isinstance(reply, Learned):
            return False
        self._keeper.has_news = True
        self._keeper.note_varied(reply)
        # By attempts, not by what was learned of them: a function that always fails ages too.
        for function, count in Counter(each.function for each in attempts).items():
            self._keeper.calls[function] = self._keeper.calls.get(function, 0) + count
        self._note(len(samples), reply)
        return True

    def _note(self, count: int, reply: Learned) -> None:
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
