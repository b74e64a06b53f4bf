"""Workers that run nothing: the exchanges of many, by one event loop.

Each does as the real agent does: one exchange is parked at all times; a task's report goes beside
it on a second connection. Runs are timers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from functools import partial

import msgspec
from msgspec import Struct

from bench import wire
from bench.wire import Wire
from task_server.protocol.workers import (
    Assignment,
    Exchange,
    Exchanged,
    Held,
    Joined,
    Report,
    Usage,
)
from task_server.worker.session import Session

JOINS_AT_ONCE = 50
KEEP_SECONDS = 15.0
"""How long the agent keeps a connection that it does not need."""
ANSWER = msgspec.Raw(b"2.0")
"""Of every task."""
_joined = msgspec.json.Decoder(Joined)
_exchanged = msgspec.json.Decoder(Exchanged)


class Fleet:
    """Many workers of the same servers; `run_seconds` is what each task takes, more or less.

    `ended` counts the tasks whose answers the server has taken; `exchanges` counts those answered.
    """

    def __init__(self, urls: Sequence[str], token: str, *, run_seconds: float = 0.0) -> None:
        self.run_seconds = run_seconds
        self.ended = 0
        self.exchanges = 0
        self._urls = urls
        self._token = token
        self._workers: list[_Worker] = []
        self._broken: Exception | None = None

    async def join(self, count: int, *, slots: int = 1, python: str = "3.11") -> None:
        """Let so many workers more begin."""
        gate = asyncio.Semaphore(JOINS_AT_ONCE)
        first = len(self._workers)
        made = [
            _Worker(self, self._urls[number % len(self._urls)], self._token, slots)
            for number in range(first, first + count)
        ]
        self._workers += made

        async def begin(worker: _Worker, number: int) -> None:
            async with gate:
                await worker.begin(number, python)

        await asyncio.gather(*(begin(each, first + n) for n, each in enumerate(made)))

    async def until(self, ended: int, *, seconds: float) -> None:
        """Wait until so many tasks have ended. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while self.ended < ended:
                self.check()
                await asyncio.sleep(0.01)

    def check(self) -> None:
        """Raises what went wrong with any of them."""
        if self._broken is not None:
            raise self._broken

    def fail(self, error: Exception) -> None:
        """One of them cannot go on."""
        self._broken = self._broken or error

    def close(self) -> None:
        """Let all go, without a word to the servers."""
        for worker in self._workers:
            worker.close()


class _Facts(Struct):
    name: str
    slots: int
    pythons: list[str]
    protocol: tuple[int, int] = (1, 1)


class _Worker:
    """One of them."""

    def __init__(self, fleet: Fleet, url: str, token: str, slots: int) -> None:
        self._fleet = fleet
        self._url = url
        self._token = token
        self._slots = slots
        self._session = Session()
        self._running: dict[str, asyncio.TimerHandle] = {}
        self._ended: list[str] = []
        self._sending: list[str] = []
        self._path = ""
        self._parked: Wire | None = None
        self._reporting: Wire | None = None
        self._is_opening = False
        self._closing: asyncio.TimerHandle | None = None

    async def begin(self, number: int, python: str) -> None:
        """Join, and park."""
        self._parked = await wire.connect(self._url, self._fleet.fail)
        facts = _Facts(f"simulated-{number}", self._slots, [python])
        heard: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        request = wire.post(self._url, self._token, "/v1/workers", msgspec.json.encode(facts))
        self._parked.ask(request, heard.set_result)
        joined = _joined.decode(await heard)
        self._session.begin(joined, asked_at=time.monotonic())
        self._path = f"/v1/workers/{joined.worker}/exchange"
        self._park()

    def close(self) -> None:
        """Let go of its connections."""
        for timer in (*self._running.values(), self._closing):
            if timer is not None:
                timer.cancel()
        for each in (self._parked, self._reporting):
            if each is not None:
                each.close()

    def _park(self) -> None:
        assert self._parked is not None
        asked = self._session.ask(
            [],
            want=max(2 * self._slots - len(self._running), 0),
            waits=True,
            draining=False,
            held=self._held,
            states={},
            orders=[],
        )
        self._parked.ask(self._request(asked), self._hear)

    def _held(self) -> list[Held]:
        return [Held(lease, "running") for lease in (*self._running, *self._ended, *self._sending)]

    def _hear(self, body: bytes) -> None:
        told = self._told(body)
        loop = asyncio.get_running_loop()
        for task in told.tasks:
            # Thousands that began together do not end together.
            seconds = self._fleet.run_seconds * random.uniform(0.5, 1.5)
            self._running[task.lease] = loop.call_later(seconds, partial(self._end, task))
        self._park()

    def _end(self, task: Assignment) -> None:
        del self._running[task.lease]
        self._ended.append(task.lease)
        self._report()

    def _report(self) -> None:
        if not self._ended or self._sending or self._is_opening:
            return
        if self._reporting is None:
            self._is_opening = True
            asyncio.get_running_loop().create_task(self._open())
            return
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._sending, self._ended = self._ended, []
        used = Usage(run_seconds=max(self._fleet.run_seconds, 1e-4))
        reports = [
            Report(lease=lease, outcome="succeeded", encoding="json", answer=ANSWER, usage=used)
            for lease in self._sending
        ]
        asked = self._session.report(reports, is_parked=True, draining=False)
        self._reporting.ask(self._request(asked), self._hear_decisions)

    async def _open(self) -> None:
        self._reporting = await wire.connect(self._url, self._fleet.fail)
        self._is_opening = False
        self._report()

    def _hear_decisions(self, body: bytes) -> None:
        told = self._told(body)
        if any(decision.status != 200 for decision in told.decisions):
            self._fleet.fail(RuntimeError(f"a report was decided {told.decisions}"))
        if len(told.decisions) != len(self._sending):
            self._fleet.fail(RuntimeError("a report was not decided"))
        self._fleet.ended += len(self._sending)
        self._sending = []
        self._closing = asyncio.get_running_loop().call_later(KEEP_SECONDS, self._hang_up)
        self._report()

    def _hang_up(self) -> None:
        assert self._reporting is not None
        self._reporting.close()
        self._reporting = self._closing = None

    def _told(self, body: bytes) -> Exchanged:
        told = _exchanged.decode(body)
        self._session.saw(told.number, asked_at=time.monotonic())
        self._fleet.exchanges += 1
        return told

    def _request(self, asked: Exchange) -> bytes:
        return wire.post(self._url, self._token, self._path, msgspec.json.encode(asked))
