"""The executable model of delivery beside a server that is spoken to over HTTP.

The model's clock stands still: leases and times to start are long. Only waits end by the server's
clock: a task that waits may be queued from the shortest wait on that it can have drawn, and must be
once the longest is over.
"""

from __future__ import annotations

import json
import time
from typing import Any

from task_server.protocol import ids
from task_server.protocol.workers import Held
from task_server.store import transitions
from task_server.store.attempts import AttemptReport, Dealt, Decided, LeaseKey
from task_server.store.sessions import ExchangeResult
from tests.delivery_model import DELAYED, QUEUED, RUNNING
from tests.e2e.watched import WatchedPlace
from tests.e2e.wire import Connection, Reply
from tests.store.delivery import Delivery, row_of

SWEEP_SECONDS = 2.0
SLACK_SECONDS = 20.0
"""How late a busy machine may be."""


class HttpDelivery(Delivery):
    """The model, with waits that end at a time which only the server knows."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: dict[bytes, tuple[float, float]] = {}
        """Task -> when it may be queued again, and when it must be."""

    def _crash(self, task: Any) -> None:
        super()._crash(task)
        if task.state == DELAYED:
            self._wait(task, *(transitions.crash_wait(task.crashes, jitter) for jitter in (0, 1)))

    def answer(self, *arguments: Any, **options: Any) -> Any:
        task = self.tasks.get(arguments[1])
        was_running = task is not None and task.state == RUNNING
        outcome = super().answer(*arguments, **options)
        if task is not None and was_running and task.state == DELAYED:
            row = row_of(task)
            self._wait(task, *(transitions.retry_wait(row, jitter) for jitter in (0, 1)))
        return outcome

    def _wait(self, task: Any, least: float, most: float) -> None:
        now = time.monotonic()
        task.until = float("inf")
        self.waits[task.id] = (now + least, now + most + SWEEP_SECONDS + SLACK_SECONDS)

    def is_seen(self, identifier: bytes, state: str) -> None:
        """The server shows a task in this state: follow it where only time tells."""
        task = self.tasks[identifier]
        if task.state != DELAYED:
            return
        earliest, latest = self.waits[identifier]
        now = time.monotonic()
        if state == QUEUED:
            assert now >= earliest, f"queued {earliest - now:.2f} s too early"
            task.state = QUEUED
        elif state == DELAYED:
            assert now <= latest, "it waits too long"


class HttpWorld:
    """A server, and callers of it that are new each time."""

    def __init__(self, place: WatchedPlace) -> None:
        self.place = place
        self.clock = self
        self.callers: dict[str, Connection] = {}
        self.forgets_phases = place.database.startswith("sqlite:")
        """How far an attempt was is not known after a restart."""

    @property
    def now(self) -> float:
        """Unix seconds."""
        return time.time()

    def begin(self, users: list[str], workers: list[str]) -> None:
        """New owners and new workers, who have nothing to do with those before."""
        self.close()
        mark = ids.new_id().hex()
        for name in users:
            token = self.place.token("user", f"{name} {mark}")
            self.callers[name] = Connection(self.place.url, token)
        for name in workers:
            token = self.place.token("worker", f"{name} {mark}")
            self.callers[name] = Connection(self.place.url, token)

    def close(self) -> None:
        """Close all connections."""
        for connection in self.callers.values():
            connection.close()

    def is_there(self) -> bool:
        """Whether the server runs."""
        return self.place.server is not None and self.place.server.is_alive()

    def kill(self) -> None:
        """Kill the server."""
        assert self.place.server is not None
        self.place.server.kill()

    def stop(self) -> None:
        """Stop the server in order."""
        assert self.place.server is not None
        assert self.place.server.stop() == 0

    def start(self) -> None:
        """Start the server again."""
        self.close()
        self.place.serve()

    def listed(self, user: str) -> list[dict[str, Any]]:
        """All tasks of a user."""
        page = self.callers[user].ask("GET", "/v1/tasks?limit=1000").told
        assert page["next"] is None
        return list(page["tasks"])


class HttpWorker:
    """One agent, as `tests.store.world.Worker`: it joins, and exchanges with rising numbers."""

    def __init__(self, world: HttpWorld, name: str) -> None:
        self.world = world
        self.name = name
        self.id: str | None = None
        self.session = ""
        self.number = 0
        self.seen = 0

    @property
    def connection(self) -> Connection:
        """To the server, with this worker's token."""
        return self.world.callers[self.name]

    async def join(self) -> None:
        """Begin a session."""
        facts = {"name": self.name, "protocol": [1, 1], "slots": 1000, "worker": self.id}
        facts["pythons"] = ["3.11", "3.12"]
        body = json.dumps({key: value for key, value in facts.items() if value}).encode()
        told = self.connection.ask("POST", "/v1/workers", body).told
        self.id, self.session = told["worker"], told["session"]
        self.number = self.seen = 0

    async def exchange(
        self,
        *reports: AttemptReport,
        want: int = 0,
        wait: float = 0.0,
        held: list[Held] | None = None,
        draining: bool = False,
        is_lost: bool = False,
    ) -> ExchangeResult:
        """Report and ask; `is_lost`: the reply is never read."""
        self.number += 1
        request = self.request(list(reports), want=want, wait=wait, held=held, draining=draining)
        send = self.connection.lose_reply if is_lost else self.connection.ask
        result = read_result(send(*request))
        if not is_lost:
            self.seen = self.number
        return result

    def request(
        self,
        reports: list[AttemptReport],
        *,
        want: int = 0,
        wait: float = 0.0,
        held: list[Held] | None = None,
        draining: bool = False,
    ) -> tuple[str, str, bytes]:
        """The present exchange."""
        fields = {"session": self.session, "number": self.number, "seen": self.seen}
        fields |= {"want": want, "wait": wait, "draining": draining}
        if held is not None:
            fields["held"] = [{"lease": each.lease, "phase": each.phase} for each in held]
        told = b",".join(map(_report, reports))
        body = b'%s,"reports":[%s]}' % (json.dumps(fields).encode()[:-1], told)
        return "POST", f"/v1/workers/{self.id}/exchange", body


def _report(report: AttemptReport) -> bytes:
    assert report.lease is not None
    fields: dict[str, Any] = {"lease": report.lease.text, "outcome": report.outcome}
    if report.outcome == "succeeded":
        head = json.dumps(fields | {"encoding": "json"}).encode()[:-1]
        return head + b',"answer":%s}' % report.answer  # as it is: the same bytes come out
    if report.outcome == "failed":
        error = {"kind": report.error_kind, "type": "E", "message": report.answer.decode()}
        fields["error"] = error | {"traceback": ""}
    if report.unfit:
        fields["unfit"] = True
    return json.dumps(fields).encode()


def read_result(reply: Reply) -> ExchangeResult:
    """An exchange's reply as the store would give it."""
    assert reply.status == 200, reply
    told = reply.told
    return ExchangeResult(
        [Decided(each["status"], each.get("duplicate", False)) for each in told["decisions"]],
        [_dealt(task) for task in told["tasks"]],
        [(each["lease"], each["why"]) for each in told["stop"]],
    )


def _dealt(task: dict[str, Any]) -> Dealt:
    key, identifier = LeaseKey.parse(task["lease"]), ids.from_text(task["id"])
    assert key is not None and identifier is not None and key.attempt == task["attempt"]
    kind: Any = None  # only the server knows it
    return Dealt(key.number, identifier, kind, key.attempt, key.secret, b"")
