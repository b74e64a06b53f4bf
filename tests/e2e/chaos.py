"""Workers that answer late, twice, out of order, differently, and for what was cancelled."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from typing import Any

from msgspec import Struct

from tests.e2e.stranger_client import PlainClient, Refused

FACTS = {"name": "chaotic", "protocol": [1, 1], "slots": 8, "pythons": ["3.11"]}
SETTLED = {200, 409, 410}


class Ledger:
    """What all of them were told; for many threads."""

    def __init__(self) -> None:
        self.accepted: dict[str, list[object]] = defaultdict(list)
        """Task -> the answers that were taken as new ones."""
        self.statuses: Counter[tuple[str, int]] = Counter()
        """(What was sent, status) -> how often."""
        self.restarts = 0
        """How often a worker would have begun a new session."""
        self._overdue: set[str] = set()
        self._lock = threading.Lock()

    def note(self, kind: str, task: str, answer: object, status: int, *, is_new: bool) -> None:
        """A decision came back."""
        assert status in SETTLED, (kind, status)
        with self._lock:
            self.statuses[kind, status] += 1
            if status == 200 and is_new and kind != "failure":
                self.accepted[task].append(answer)

    def may_be_late(self, task: str) -> bool:
        """Whether this task's lease may run out: once each, or it would count as lost for good."""
        with self._lock:
            is_first = task not in self._overdue
            self._overdue.add(task)
            return is_first

    def may_restart(self) -> bool:
        """Whether a worker may begin a new session, which costs all it holds their leases: once."""
        with self._lock:
            self.restarts += 1
            return self.restarts == 1


class _Told(Struct):
    """An answer on its way."""

    kind: str
    task: str
    lease: str
    answer: object
    due_at: float


class Chaotic:
    """A thread that works badly until it is stopped; then it sends what it still has."""

    def __init__(
        self, client: PlainClient, ledger: Ledger, *, seed: int, lease_seconds: float
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._random = random.Random(seed)
        self._lease_seconds = lease_seconds
        self._ends = threading.Event()
        self._waiting: list[_Told] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let it send the rest, and wait for that."""
        self._ends.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            self._work()
            while self._waiting:
                self._send(self._waiting[:50])
                self._waiting = self._waiting[50:]
        except BaseException as error:
            self.error = error

    def _work(self) -> None:
        while not self._ends.is_set():
            self._take()
            now = time.monotonic()
            due = [told for told in self._waiting if told.due_at <= now]
            self._random.shuffle(due)
            self._waiting = [told for told in self._waiting if told.due_at > now]
            self._send(due)

    def _take(self) -> None:
        """Ask for tasks, and `_plan` what is told about them."""
        raise NotImplementedError

    def _send(self, answers: list[_Told]) -> None:
        """Tell these, and note what came back."""
        raise NotImplementedError

    def _plan(self, task: str, lease: str, attempt: object) -> None:
        """What is told about a task: an answer, soon or too late, and perhaps more."""
        answer = [task, attempt, self._random.random()]
        seconds = self._random.uniform(0, 0.5)
        if self._random.random() < 0.1 and self._ledger.may_be_late(task):
            seconds += 1.5 * self._lease_seconds
        now = time.monotonic()
        self._waiting.append(_Told("answer", task, lease, answer, now + seconds))
        if self._random.random() < 0.3:
            self._waiting.append(_Told("repeat", task, lease, answer, now + seconds + 0.1))
        if self._random.random() < 0.3:
            other = [task, attempt, self._random.random()]
            self._waiting.append(_Told("another", task, lease, other, now + seconds + 0.2))
        if self._random.random() < 0.2:
            late = now + seconds + 0.3
            self._waiting.append(_Told("failure", task, lease, "out of order", late))


class ChaoticWorker(Chaotic):
    """On `/v1`."""

    _session = ""
    _worker = ""
    _number = 0

    def _take(self) -> None:
        if not self._session:
            known = {"worker": self._worker} if self._worker else {}
            joined = self._client.ask("POST", "/v1/workers", FACTS | known)
            self._session, self._worker = joined["session"], joined["worker"]
            self._number = 0
        want = self._random.randint(0, 8)
        for task in self._exchange(want=want, wait=self._random.uniform(0, 0.1))["tasks"]:
            self._plan(task["id"], task["lease"], task["attempt"])
        if len(self._waiting) > 5 and self._random.random() < 0.2 and self._ledger.may_restart():
            self._session = ""  # what it holds is told in the next session, late

    def _send(self, answers: list[_Told]) -> None:
        if not self._session:
            self._take()
        while answers:
            # One report a lease: a list that contradicts itself is another matter.
            batch = list({told.lease: told for told in answers}.values())
            answers = [told for told in answers if told not in batch]
            told_back = self._exchange(reports=[_report(told) for told in batch])
            for told, decision in zip(batch, told_back["decisions"], strict=True):
                assert decision["lease"] == told.lease
                is_new = not decision.get("duplicate")
                self._ledger.note(
                    told.kind, told.task, told.answer, decision["status"], is_new=is_new
                )

    def _exchange(self, **fields: object) -> dict[str, Any]:
        self._number += 1
        body = {"session": self._session, "number": self._number, "seen": self._number - 1}
        return self._client.ask("POST", f"/v1/workers/{self._worker}/exchange", body | fields)


def _report(told: _Told) -> dict[str, object]:
    if told.kind == "failure":
        error = {"kind": "exception", "type": "Chaos", "message": str(told.answer)}
        return {"lease": told.lease, "outcome": "failed", "error": error}
    return {
        "lease": told.lease,
        "outcome": "succeeded",
        "encoding": "json",
        "answer": told.answer,
        "usage": {"run_seconds": 0.001},
    }


class ChaoticPlainWorker(Chaotic):
    """On the plain API."""

    def _take(self) -> None:
        found = self._client.ask("GET", f"/worker/request_task?wait={self._random.uniform(0, 0.1)}")
        if found["sucsess"]:
            self._plan(found["id"], found["id"], None)

    def _send(self, answers: list[_Told]) -> None:
        for told in answers:
            body: dict[str, object] = {"id": told.task, "answer": told.answer}
            if told.kind == "failure":
                body = {"id": told.task, "sucsess": False, "exception": told.answer}
            try:
                reply = self._client.ask("POST", "/worker/submit_answer", body)
            except Refused as error:
                self._note(told, error.status, is_new=False)
            else:
                self._note(told, 200, is_new=not reply.get("duplicate"))

    def _note(self, told: _Told, status: int, *, is_new: bool) -> None:
        self._ledger.note(told.kind, told.task, told.answer, status, is_new=is_new)
