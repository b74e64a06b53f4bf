"""A store that is called as a server calls it: life cycles of tasks, timed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec import Struct

from task_server.environments.lock import empty_lock
from task_server.protocol.ids import new_ids
from task_server.scheduling.statistics import guess
from task_server.store.attempts import AttemptReport, Dealt, LeaseKey, Used
from task_server.store.contract import Store
from task_server.store.kinds import KindSpec
from task_server.store.sessions import ExchangeRequest, JoinRequest, WorkerFacts
from task_server.store.states import Encoding
from task_server.store.submissions import NewTask, Submission

SIZE = 1000
"""Tasks of a round."""
LOAD = 5000
"""Tasks of a request that fills a store."""
EMPTY = empty_lock("3.11").digest
KIND = KindSpec(
    owner=1,
    function="sqrt",
    module="math",
    package=(),
    version=None,
    distribution="",
    python="3.11",
    request="empty 3.11",
    environment=EMPTY,
    pickle=None,
    timeout=None,
    max_attempts=1,
    backoff=1.0,
    retry_on=("exception",),
    priority=0,
    at_most_once=False,
    result_encoding="json",
    isolation="reuse",
    tags=(),
    plain=True,
)


class Rates(Struct, frozen=True):
    """Tasks a second of one round."""

    submit: float
    lease: float
    finish: float

    @property
    def cycle(self) -> float:
        """Tasks a second through all three."""
        return 1.0 / (1 / self.submit + 1 / self.lease + 1 / self.finish)


class Line:
    """A store, a user and a worker of it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._number = 0
        self._worker = ""

    async def join(self) -> None:
        """Begin the worker's session."""
        facts = WorkerFacts(name="bench", slots=SIZE, pythons=("3.11",))
        self._worker = await self._store.join(JoinRequest(None, 1, facts, "bench"))

    async def fill(self, rows: int) -> None:
        """Leave tasks that wait for a worker."""
        for start in range(0, rows, LOAD):
            await self.submit(min(LOAD, rows - start))

    async def submit(self, count: int) -> None:
        """Store tasks as one request does."""
        payload = b'"args":[4],"kwargs":{}'
        tasks = [NewTask(task, None, payload, 0) for task in new_ids(count)]
        await self._store.submit(Submission(1, [KIND], [guess(None, "guess")], tasks))

    async def exchange(
        self, reports: Sequence[AttemptReport] = (), *, want: int = 0
    ) -> list[Dealt]:
        """Report and ask; gives what was leased."""
        self._number += 1
        number = self._number
        request = ExchangeRequest(
            self._worker,
            "bench",
            1,
            number,
            number - 1,
            want,
            time.time(),
            False,
            list(reports),
            None,
            [],
        )
        return (await self._store.exchange(request)).tasks

    async def round(self) -> Rates:
        """Submit SIZE tasks, lease as many, and finish them."""
        began = time.perf_counter()
        await self.submit(SIZE)
        submitted = time.perf_counter()
        dealt: list[Dealt] = []
        while len(dealt) < SIZE:
            dealt += await self.exchange(want=SIZE - len(dealt))
        leased = time.perf_counter()
        await self.exchange([_succeeded(each) for each in dealt])
        ended = time.perf_counter()
        return Rates(
            SIZE / (submitted - began), SIZE / (leased - submitted), SIZE / (ended - leased)
        )


def _succeeded(dealt: Dealt) -> AttemptReport:
    lease = LeaseKey(dealt.number, dealt.attempt, dealt.secret)
    return AttemptReport(lease, "succeeded", Encoding.JSON, b"2.0", used=Used(run_seconds=0.0001))
