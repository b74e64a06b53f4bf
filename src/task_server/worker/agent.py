"""The agent: one worker's loop. It joins, exchanges, prepares, runs and reports."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from task_server import errors
from task_server.client.aio import AsyncTransport
from task_server.client.requests import refusal
from task_server.protocol.workers import Exchange, Exchanged, Report
from task_server.settings import WorkerSettings
from task_server.worker.attempts import (
    Attempt,
    broken_off,
    crashed,
    refused,
    released,
    report_of,
)
from task_server.worker.blob_files import BlobFiles
from task_server.worker.calls import CallLimits, Outcome
from task_server.worker.devices import Devices, devices_of
from task_server.worker.disk import Disk
from task_server.worker.environments import Environments
from task_server.worker.holding import Holding
from task_server.worker.imports import Imports
from task_server.worker.installing import InstallRules
from task_server.worker.large import LargeAnswers, Uploads
from task_server.worker.membership import JSON, Membership, Refused, check_refused
from task_server.worker.orders import Orders
from task_server.worker.preparation import Preparation
from task_server.worker.resources import Resources
from task_server.worker.room import Room
from task_server.worker.sandbox import own_network
from task_server.worker.sandbox.choice import choose, wishes_of
from task_server.worker.sandbox.relay import relay_of
from task_server.worker.session import Session
from task_server.worker.slots import Slots
from task_server.worker.spool import Spool

log = logging.getLogger(__name__)

AHEAD = 512
"""Tasks that one slot may hold, short ones."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
LOOK_SECONDS = 0.1
LEAVE_SECONDS = 2.0
"""After the second signal."""
LAST_TRY_SECONDS = 30.0
"""How long a drained worker tries to deliver; its answers stay on disk for the next start."""
FIRST_ANSWER_SECONDS = 0.002
GATHER_SECONDS = 0.005
"""Between two reports while more answers of short calls are about to come."""
REPORTS_AT_ONCE = 2000

_encode = msgspec.json.Encoder().encode
_exchanged = msgspec.json.Decoder(Exchanged).decode


Kind = Literal["report", "ask", "park"]


def _is_over(exchange: asyncio.Task[None] | None) -> bool:
    return exchange is None or exchange.done()


class Agent:
    """One worker."""

    def __init__(self, settings: WorkerSettings, *, version: str) -> None:
        self._settings = settings
        self._data = settings.data.expanduser().absolute()
        self._transport = AsyncTransport(settings.server, settings.token)
        self._files = BlobFiles(self._data / "blobs", self._files_in_use)
        self._resources = Resources(self._transport, self._files)
        self._relay = relay_of(settings, os.environ)
        self._environments = Environments(
            self._data / "environments",
            build_seconds=settings.build_seconds,
            downloads=self._data / "pythons" if settings.python_downloads == "on" else None,
            rules=InstallRules(
                settings.policy,
                settings.private,
                most_bytes=settings.environment_bytes,
                most_files=settings.environment_files,
            ),
            fetch_wheels=self._resources.wheels,
            has_fence=settings.installer_fence == "on",
            relay=None if own_network.missing() else self._relay,
        )
        self._disk = Disk(self._data)
        self._spool = Spool(self._data / "spool")
        self._large = LargeAnswers(self._data / "spool" / "large")
        self._slots = Slots(
            settings.slots, self._data / "runners", self._on_outcomes, self._on_unfit
        )
        self._preparation = Preparation(
            self._environments,
            self._resources,
            self._disk,
            CallLimits(answer_bytes=settings.answer_bytes, log_bytes=settings.log_bytes),
        )
        self._level = 0
        """Of the sandbox."""
        self._gpus = 0
        self._wake = asyncio.Event()
        self._orders = Orders(
            self._environments,
            Imports(self._slots),
            self._resources.lock,
            on_news=self._wake.set,
            collect=self._collect,
        )
        self._room = Room(
            self._environments,
            self._files,
            self._data,
            self._disk,
            limit_bytes=settings.environments_bytes,
            let_go=self._let_go,
        )
        self._holding = Holding(
            self._preparation,
            self._slots,
            self._spool,
            report=self._report,
            on_prepared=self._wake.set,
        )
        self._membership = Membership(
            settings, self._transport, self._data / "identity", version=version
        )
        self._session = Session()
        self._in_flight: set[str] = set()
        """Leases whose reports are under way."""
        self._reporting: asyncio.Task[None] | None = None
        self._parked: asyncio.Task[None] | None = None
        self._park_at = 0.0
        self._report_at = 0.0
        self._is_asking = False
        self._is_flowing = False
        """Tasks came while others were still held: there are probably more."""
        self._is_draining = False
        self._leave_at = math.inf
        """When to end without a server that takes the reports: they are on disk."""
        self._pause = FIRST_PAUSE
        self._refusal: Refused | None = None
        self._background: set[asyncio.Task[None]] = set()

    # ---- life

    async def run(self) -> None:
        """Work until drained or refused. Raises Refused."""
        self._data.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._environments.open()
        self._slots.open()
        chosen = await choose(
            wishes_of(self._settings, self._data),
            interpreter=self._environments.first_interpreter,
            directory=self._data / "runners",
            relay=self._relay,
        )
        self._level = chosen.level
        devices = await asyncio.to_thread(devices_of, self._settings.gpus)
        self._gpus = len(devices)
        is_told = self._settings.gpus is not None
        self._slots.use(chosen.sandbox, Devices(devices if devices or is_told else None))
        self._spool.open()
        left = self._large.open()
        looking = asyncio.ensure_future(self._look_after())
        self._start(self._room.keep())
        try:
            await self._deliver_left(left)
            await self._join()
            await self._work()
        finally:
            looking.cancel()
            await self._close()
        if self._refusal is not None:
            raise self._refusal

    def drain(self) -> None:
        """Take no more, finish what runs, then end; the second time, give everything back."""
        if self._is_draining:
            self._give_back()
        self._holding.refuse()
        left = len(self._holding.attempts)
        if left and not self._is_draining:
            log.info("draining: %d tasks end first; a second signal gives them back now", left)
        self._is_draining = True
        self._orders.take([])
        self._wake.set()

    def _give_back(self) -> None:
        loop = asyncio.get_running_loop()
        self._leave_at = min(self._leave_at, loop.time() + LEAVE_SECONDS)
        loop.call_at(self._leave_at, self._wake.set)
        for upload in self._background:
            upload.cancel()
        self._slots.forget_running()
        for attempt in list(self._holding.attempts.values()):
            if self._large.has(attempt.lease):
                self._holding.forget(attempt.lease)  # its answer is there for the next start
            elif attempt.assignment.at_most_once:
                self._report([crashed(attempt, "the worker was stopped")])
            else:
                self._report([broken_off(attempt)])

    async def _close(self) -> None:
        self._holding.close()
        await self._spool.settle()
        await self._large.settle()
        for task in [*self._background, self._parked, self._reporting]:
            if task is not None:
                task.cancel()
        await self._orders.close()
        await self._slots.close()
        await self._environments.close()
        await self._transport.close()

    def _let_go(self, environment: str) -> bool:
        """Whether an environment may be removed; nothing here uses it from then on."""
        attempts = self._holding.attempts.values()
        held = (attempt.assignment.environment for attempt in attempts)
        if environment in self._orders.wanted or environment in held:
            return False
        if not self._slots.let_go(environment):
            return False
        self._preparation.forget(environment)
        return True

    def _files_in_use(self) -> set[Path]:
        return {file for attempt in self._holding.attempts.values() for file in attempt.files}

    async def _collect(self) -> str:
        return await self._room.collect()

    async def _look_after(self) -> None:
        """Keep calls from waiting behind long ones, and from running on a lease that ran out."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._report([released(attempt) for attempt in self._slots.free_up()])
            if self._holding.attempts and self._session.is_doubtful():
                self._end_once()

    def _end_once(self) -> None:
        """End what may start only once: the server may tell by now that it is lost."""
        for attempt in list(self._holding.attempts.values()):
            if attempt.assignment.at_most_once and not self._large.has(attempt.lease):
                self._holding.stop(attempt.lease)
                self._report([crashed(attempt, "its lease was not renewed in time")])

    # ---- joining

    async def _join(self) -> None:
        while not self._is_done():
            asked_at = time.monotonic()
            try:
                joined = await self._membership.ask(
                    level=self._level, gpus=self._gpus, pythons=self._environments.pythons
                )
            except (errors.ServerUnreachable, errors.RequestError, msgspec.DecodeError) as error:
                log.warning("cannot join: %s", error)
                await self._rest()
                continue
            self._session.begin(joined, asked_at=asked_at)
            self._pause = FIRST_PAUSE
            log.info("joined as %s with %d slots", joined.worker, self._settings.slots)
            return

    async def _rest(self) -> None:
        """Wait before trying again, longer each time, not all workers at once."""
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    # ---- exchanging

    async def _work(self) -> None:
        while not self._is_done():
            self._wake.clear()
            if self._refusal is not None:
                raise self._refusal
            if _is_over(self._reporting):
                self._report_or_ask()
            if self._may_park():
                self._parked = self._exchanging("park")
            await self._wake.wait()

    def _report_or_ask(self) -> None:
        """Tell what there is to tell, in the way that keeps tasks coming.

        While they flow, one exchange reports and takes the next. Else the report goes with the
        exchange that parks, or beside one that is parked already when the next task comes. A
        session's first exchange asks in any case: it lists what is held.
        """
        ready = len(self._spool.pending) - len(self._in_flight)
        has_reports = ready > 0 and not self._gathers(ready)
        if has_reports and not self._is_flowing and not self._session.is_new():
            if _is_over(self._parked):
                self._parked = self._exchanging("park")
            else:
                self._reporting = self._exchanging("report")
        elif has_reports or self._has_news():
            self._reporting = self._exchanging("ask")
            self._is_asking = True

    def _gathers(self, ready: int) -> bool:
        """Whether to let more answers come first: each report costs both sides as much as many.

        Only while more calls wait behind others, all of them short, than are answered.
        """
        if ready >= self._slots.behind + len(self._holding.arrived):
            return False
        return self._wakes_at(self._report_at)

    def _wakes_at(self, when: float) -> bool:
        """Whether that moment is still to come; then look again when it has."""
        loop = asyncio.get_running_loop()
        if when <= loop.time():
            return False
        loop.call_at(when, self._wake.set)
        return True

    def _has_news(self) -> bool:
        """Whether the server does not know something of environments."""
        return bool(self._orders.news or self._session.news(self._environments.states()))

    def _may_park(self) -> bool:
        """Whether to wait for tasks: not while the first answers of new ones may come any moment.

        Their report asks too, and an exchange more for each short task would cost both sides.
        """
        if self._holding.arrived:
            return False  # of tasks there are enough
        if not _is_over(self._parked) or (self._is_asking and not _is_over(self._reporting)):
            return False
        return not self._wakes_at(self._park_at)

    def _is_done(self) -> bool:
        if not self._is_draining or self._holding.attempts:
            return False
        if not self._spool.pending:
            return True
        loop = asyncio.get_running_loop()
        if self._leave_at == math.inf:
            self._leave_at = loop.time() + LAST_TRY_SECONDS
            loop.call_at(self._leave_at, self._wake.set)
        return loop.time() >= self._leave_at

    def _exchanging(self, kind: Kind) -> asyncio.Task[None]:
        return asyncio.get_running_loop().create_task(self._exchange(kind))

    async def _exchange(self, kind: Kind) -> None:
        try:
            await self._exchange_once(kind)
            self._pause = FIRST_PAUSE
        except asyncio.CancelledError:
            raise
        except Refused as refused:
            self._refusal = refused
        except (errors.ServerUnreachable, errors.RequestError, msgspec.DecodeError) as error:
            self._session.doubt()
            if not isinstance(error, errors.SessionOver):
                log.warning("exchange failed: %s", error)
            await self._rest()
        finally:
            if kind == "ask":
                self._is_asking = False
            self._wake.set()

    async def _exchange_once(self, kind: Kind) -> None:
        asked = self._next_exchange(kind)
        if asked.reports:
            self._report_at = asyncio.get_running_loop().time() + GATHER_SECONDS
        sending = {report.lease for report in asked.reports}
        self._in_flight |= sending
        asked_at = time.monotonic()
        try:
            reply = await self._transport.request(
                "POST",
                f"/v1/workers/{self._session.worker}/exchange",
                _encode(asked),
                JSON,
                timeout=asked.wait + 30.0,
            )
        finally:
            self._in_flight -= sending
        if reply.status >= 300:
            error = refusal(reply)
            check_refused(error)
            if isinstance(error, errors.SessionOver) and asked.session == self._session.id:
                await self._join()
                return
            raise error
        if asked.session == self._session.id:
            self._take(asked, _exchanged(reply.body), asked_at)

    def _next_exchange(self, kind: Kind) -> Exchange:
        if kind == "report":
            return self._session.report(
                self._reports(), is_parked=not _is_over(self._parked), draining=self._is_draining
            )
        return self._session.ask(
            self._reports(),
            want=self._want(),
            waits=kind == "park",
            draining=self._is_draining,
            held=self._holding.listed,
            states=self._environments.states(),
            orders=list(self._orders.news.values()),
        )

    def _reports(self) -> list[Report]:
        """What is not under way already."""
        waiting = self._spool.pending.items()
        reports = [report for lease, report in waiting if lease not in self._in_flight]
        return reports[:REPORTS_AT_ONCE]

    def _want(self) -> int:
        if self._is_draining or not self._disk.has_room():
            return 0
        free = self._settings.slots - self._slots.stuck()
        return max(free * AHEAD - len(self._holding.attempts), 0)

    def _take(self, asked: Exchange, told: Exchanged, asked_at: float) -> None:
        self._session.saw(told.number, asked_at=asked_at)
        if told.decisions:
            decided = [decision.lease for decision in told.decisions]
            self._spool.acknowledge(decided)
            self._large.forget(decided)
        self._orders.note_told(asked.orders)
        if told.orders is not None and not self._is_draining:
            self._orders.take(told.orders)
        for stop in told.stop:
            self._holding.stop(stop.lease)
        if told.give_back:
            self._holding.give_back(told.give_back)
        if told.drain and not self._is_draining:
            self.drain()
        if told.tasks or asked.want:
            self._is_flowing = bool(told.tasks) and bool(self._holding.attempts)
        if told.tasks:
            now = asyncio.get_running_loop().time()
            self._park_at, self._report_at = now + FIRST_ANSWER_SECONDS, now + GATHER_SECONDS
            self._holding.accept(told.tasks)

    # ---- reporting

    def _on_unfit(self, attempts: list[Attempt]) -> None:
        is_unfit = self._disk.has_room()  # else the next ones wait until it has
        self._report([released(attempt, unfit=is_unfit) for attempt in attempts])

    def _on_outcomes(self, ended: list[tuple[Attempt, Outcome]]) -> None:
        reports = []
        for attempt, outcome in ended:
            report, uploads = report_of(attempt, outcome, sandbox=self._level)
            if uploads:
                self._start(self._large.keep(report, uploads))
                self._start(self._deliver(report, uploads))
            else:
                reports.append(report)
        self._report(reports)

    async def _deliver(self, report: Report, uploads: Uploads) -> None:
        """Upload what an answer names, then report it."""
        try:
            for name, data in uploads:
                await self._resources.upload(name, data)
        except errors.RequestError as error:
            report = refused(report, f"the answer could not be stored: {error}")
        self._report([report])

    async def _deliver_left(self, left: list[tuple[Report, Uploads]]) -> None:
        """Large answers of an earlier start: they are due in the new session's first exchange."""
        work = asyncio.gather(*(self._deliver(report, uploads) for report, uploads in left))
        while left and not work.done() and not self._is_draining:
            self._wake.clear()
            drained = asyncio.ensure_future(self._wake.wait())
            await asyncio.wait((work, drained), return_when=asyncio.FIRST_COMPLETED)
            drained.cancel()
        if not work.done():
            work.cancel()  # they stay on disk for the next start

    def _start(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _report(self, reports: Sequence[Report]) -> None:
        if not reports:
            return
        for report in reports:
            self._holding.forget(report.lease)
        self._spool.add(reports)
        self._wake.set()
