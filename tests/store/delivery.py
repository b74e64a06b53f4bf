"""The executable model of delivery with the waits of the store, and agents that know both."""

from __future__ import annotations

from typing import Any

from task_server.protocol.workers import Held, Phase
from task_server.store import transitions
from task_server.store.attempts import AttemptReport, Dealt, LeaseKey
from task_server.store.states import Encoding, State
from task_server.store.transitions import Row
from tests.delivery_model import CANCELLED, DELAYED, RUNNING, Config, Model
from tests.store.world import (
    JITTER,
    LEASE_SECONDS,
    Worker,
    crashed,
    held,
    lease_of,
    released,
)

BACKOFF = 4.0
"""Of all tasks, in seconds."""
LABELS = {"disk": "fast"}
"""What some tasks require, and some workers have."""


class Delivery(Model):  # type: ignore[misc]  # the model has no types
    """The model with the times of the store."""

    def __init__(self, *, retention: float = float("inf")) -> None:
        """`retention`: seconds that ended tasks are kept, read or not."""
        super().__init__(Config(ttl=LEASE_SECONDS, retention=retention))
        self.unlocked = {"g"}
        self.started: set[str] = set()
        """Leases told as running."""
        self.labelled: set[bytes] = set()
        """Tasks that require LABELS,"""
        self.have_labels: set[str] = set()
        """and the workers that have them."""

    def _crash(self, task: Any) -> None:
        super()._crash(task)
        if task.state == DELAYED:
            task.until = self.now + transitions.crash_wait(task.crashes, JITTER)

    def answer(self, *arguments: Any, **options: Any) -> Any:
        outcome = super().answer(*arguments, **options)
        task = self.tasks.get(arguments[1])
        # The model's own wait after a failure is one second; no other of these waits is.
        if task is not None and task.state == DELAYED and task.until == self.now + 1.0:
            task.until = self.now + transitions.retry_wait(row_of(task), JITTER)
        return outcome

    def retry(self, who: str, task: Any) -> Any:
        outcome = super().retry(who, task)
        if outcome[0] == 200:  # whoever retries by hand wants it to start, late or not
            self.tasks[task].start_by = None
        return outcome

    def fitting(self, worker: str) -> Any:
        return [
            each
            for each in super().fitting(worker)
            if each.environment not in self.unlocked
            and (worker in self.have_labels or each.id not in self.labelled)
        ]


def row_of(task: Any) -> Row:
    """The task before the failure that the model has just counted."""
    return Row(
        number=0,
        state=State.RUNNING,
        generation=task.generation,
        attempt=task.attempt,
        errors=task.errors - 1,
        crashes=task.crashes,
        undelivered=task.undelivered,
        releases=task.releases,
        unstarted=task.unstarted,
        max_attempts=task.max_attempts,
        at_most_once=task.at_most_once,
        retry_on=frozenset({"exception"}),
        backoff=BACKOFF,
    )


class Agent:
    """A worker's side of the exchange, told to the store and to the model alike."""

    def __init__(self, name: str, worker: Worker, model: Delivery) -> None:
        self.name = name
        self.worker = worker
        self.model = model
        self.given: list[Dealt] = []
        """All that it was ever given."""
        self.heard: dict[str, int] = {}
        """Of this session: lease -> number of the reply that carried it last."""
        self.is_new = False
        """It has joined and not exchanged yet."""
        self.spoke_at = worker.world.clock.now

    def held(self) -> list[Any]:
        """The model's tasks that it runs."""
        return [
            task
            for task in self.model.tasks.values()
            if task.state == RUNNING and task.holder == self.name
        ]

    async def join(self) -> None:
        """Begin another session."""
        await self.worker.join()
        self.is_new, self.heard = True, {}
        self.spoke_at = self.worker.world.clock.now

    async def stay_known(self) -> None:
        """A session that was silent for an hour is forgotten."""
        if self.worker.world.clock.now - self.spoke_at > 3600:
            await self.join()
        self.spoke_at = self.worker.world.clock.now

    def reports(
        self, wanted: list[tuple[tuple[str, Dealt] | None, str, bytes]]
    ) -> tuple[list[AttemptReport], list[tuple[int, bool]]]:
        """Reports of leases, its own and others', and what the model says of each, in order."""
        reports: list[AttemptReport] = []
        decisions: list[tuple[int, bool]] = []
        reported: set[int] = set()
        for lease, outcome, value in wanted:
            if lease is None or lease[1].number in reported:
                continue  # several reports of one task have tests of their own
            dealt = lease[1]
            reported.add(dealt.number)
            reports.append(report_of(dealt, outcome, value))
            decisions.append(self._decide(dealt, outcome, value))
        return reports, decisions

    def _decide(self, dealt: Dealt, outcome: str, value: bytes) -> tuple[int, bool]:
        lease = lease_of(dealt).text
        if outcome == "crashed":
            return self.model.crashed(self.name, dealt.id, lease)[0], False
        if outcome in ("released", "unfit"):
            unfit = outcome == "unfit"
            return self.model.release(self.name, dealt.id, lease, unfit=unfit)[0], False
        status, told = self.model.answer(
            self.name,
            dealt.id,
            value,
            ok=outcome == "ok",
            retryable=outcome == "error",
            lease=lease,
        )
        return status, told.get("duplicate", False)

    def renew(self) -> None:
        """One term for all; those whose reply was seen are known to have arrived."""
        for task in self.held():
            if not self.is_new:
                task.deadline = self.model.now + LEASE_SECONDS
            if self.heard.get(task.lease, self.worker.number + 1) <= self.worker.seen:
                task.renewed = True

    def lose_older(self) -> None:
        """What an older session held and this first exchange did not report is lost."""
        if self.is_new:
            self.is_new = False
            for task in self.held():
                self.model._crash(task)

    def hold(
        self, keeps: str | None, phase: Phase, reported: set[LeaseKey | None]
    ) -> tuple[list[Held] | None, set[tuple[str, str]]]:
        """A held list, and what is to be stopped; the model loses what is missing."""
        if keeps is None:
            return None, set()
        kept = {"all": self.given, "half": self.given[::2], "none": []}[keeps]
        self._lose_missing({lease_of(dealt).text for dealt in kept})
        stops = self._note_phases(kept, phase, reported)
        return [held(dealt, phase) for dealt in kept], stops

    def _lose_missing(self, kept: set[str]) -> None:
        for task in self.held():
            is_seen = self.heard.get(task.lease, self.worker.number + 1) <= self.worker.seen
            if task.lease in kept or not is_seen:
                continue
            if task.lease in self.model.started:
                self.model._crash(task)
            else:
                self.model.release(self.name, task.id, task.lease)

    def _note_phases(
        self, kept: list[Dealt], phase: str, reported: set[LeaseKey | None]
    ) -> set[tuple[str, str]]:
        stops = set()
        for dealt in kept:
            lease, task = lease_of(dealt), self.model.tasks[dealt.id]
            if task.lease == lease.text:
                note = self.model.started.add if phase == "running" else self.model.started.discard
                note(lease.text)
            elif lease not in reported:
                why = "cancelled" if task.state == CANCELLED else "gone"
                stops.add((lease.text, why))
        return stops

    def dealt(self, tasks: list[Dealt], want: int) -> list[Dealt]:
        """The new ones of what came: first all that was not seen, then what is wanted and there."""
        again = [dealt for dealt in tasks if lease_of(dealt).text in self.heard]
        new = [dealt for dealt in tasks if lease_of(dealt).text not in self.heard]
        unseen = {
            task.lease for task in self.held() if task.lease in self.heard and not task.renewed
        }
        assert {lease_of(dealt).text for dealt in again} == unseen
        room = max(want - len(again), 0)
        assert len(new) == min(room, len(self.model.fitting(self.name)))
        for dealt in new:
            self.model.lease(self.name, lease_of(dealt).text, chosen=dealt.id)
        for dealt in tasks:
            self.heard[lease_of(dealt).text] = self.worker.number
        self.given += new
        return new


def success(dealt: Dealt, value: bytes) -> AttemptReport:
    return AttemptReport(lease_of(dealt), "succeeded", Encoding.JSON, value)


def report_of(dealt: Dealt, outcome: str, value: bytes) -> AttemptReport:
    """The report of an attempt, in the words of the rules."""
    if outcome == "ok":
        return success(dealt, value)
    if outcome in ("error", "final"):
        kind = "exception" if outcome == "error" else "timeout"
        return AttemptReport(lease_of(dealt), "failed", Encoding.ERROR, value, error_kind=kind)
    return crashed(dealt) if outcome == "crashed" else released(dealt, unfit=outcome == "unfit")
