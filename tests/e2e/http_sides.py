"""A server beside the executable model of delivery: each call is made on both, and compared."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from hypothesis.stateful import RuleBasedStateMachine, initialize

from task_server.protocol import ids
from task_server.protocol.workers import Phase
from task_server.store.attempts import Dealt
from task_server.store.sessions import ExchangeResult
from tests.delivery_model import OPEN, RUNNING, SUCCEEDED
from tests.e2e.http_delivery import HttpDelivery, HttpWorker, HttpWorld
from tests.e2e.wire import Connection, Reply
from tests.store.delivery import Agent

USERS = ["u0", "u1"]
SESSIONS = ["w0", "w1", "w2"]
PLAIN = ["p0", "p1"]
VALUES = {
    "ok": (b"1", b"2.50", b'{"b": 1, "a": [1e2]}'),
    "error": (b"error 1", b"error 2"),
    "final": (b"final 1", b"final 2"),
}

T = TypeVar("T")
Wanted = tuple[tuple[str, Dealt] | None, str, bytes]
"""A lease with whose it is, what to report of it, and the answer or error."""


class Sides(RuleBasedStateMachine):
    """Drives a server and the model side by side."""

    world: ClassVar[HttpWorld]
    """Set by whoever runs it; all runs share the server."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.model = HttpDelivery()
        self.ids: list[bytes] = []
        self.leases: list[tuple[str, Dealt]] = []
        self.agents: dict[str, Agent] = {}
        self.plain: list[tuple[str, bytes]] = []
        """Plain leases: whose, and of which task."""
        self.sent: list[tuple[str, bytes, bytes | None, str | None, dict[str, Any]]] = []
        """What was submitted: path, body, id, key, and what the model has to know of it."""
        self.told: list[tuple[str, Wanted]] = []
        """Reports, with whose they are."""
        self.steps = 0
        self.starts = 0
        """Of the server, after the first."""
        self.read: dict[bytes, bytes] = {}
        """Answers as they were read first."""

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        if not self.world.is_there():
            self.world.start()  # a run that failed left none
        self.world.begin(USERS, SESSIONS + PLAIN)
        for name in SESSIONS:
            worker: Any = HttpWorker(self.world, name)  # has what an agent uses of a store's
            self.do(worker.join())
            self.agents[name] = Agent(name, worker, self.model)

    def teardown(self) -> None:
        try:
            if self.agents:
                self.finish()
        finally:
            self.clear()
            self.world.close()
            self.runner.close()

    def finish(self) -> None:
        """Quiescence: what can be leased is answered, and all answers are as they were."""
        result = self.exchange("w0", [], 1000, None, "leased", False, False)
        wanted: list[Wanted] = [(("w0", dealt), "ok", b'"end"') for dealt in result.tasks]
        while wanted:
            self.exchange("w0", wanted[:100], 0, None, "leased", False, False)
            wanted = wanted[100:]
        for task, first in self.read.items():
            assert self.answer_of(task) == first
        for user in USERS:
            for task in [each for each in self.model.tasks.values() if each.owner == user]:
                self.change(user, task.id, "cancel", "whole")
            assert self.ask(user, "GET", "/user/estimate_time_left").told["time"] == 0.0

    def clear(self) -> None:
        """Leave nothing to the next run, also after a failed one."""
        for user in USERS:
            for view in self.world.listed(user):
                if view["state"] in OPEN:
                    self.ask(user, "POST", f"/v1/tasks/{view['id']}/cancel", b"{}")

    # ---- asking and comparing

    def ask(
        self,
        name: str,
        method: str,
        path: str,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        fate: str = "whole",
    ) -> Reply:
        """A caller's request; its reply may get lost on its way, once it has been sent."""
        connection = self.world.callers[name]
        send = connection.lose_reply if fate == "no reply" else connection.ask
        return send(method, path, body, headers)

    def compare(self) -> None:
        """Every task has to be the same on both sides."""
        self.steps += 1
        for user in USERS:
            views = self.world.listed(user)
            mine = [task for task in self.model.tasks.values() if task.owner == user]
            assert {ids.from_text(view["id"]) for view in views} == {task.id for task in mine}
            for view in views:
                self._compare_one(view)
        self.model.check()

    def _compare_one(self, view: dict[str, Any]) -> None:
        identifier = ids.from_text(view["id"])
        assert identifier is not None
        self.model.is_seen(identifier, view["state"])
        task = self.model.tasks[identifier]
        actual = (view["state"], view["generation"], view["attempt"])
        assert actual == (task.state, task.generation, task.attempt)
        if task.state == SUCCEEDED and identifier not in self.read:
            self.read[identifier] = self.answer_of(identifier)
            assert self.read[identifier] == task.result

    def answer_of(self, task: bytes) -> bytes:
        owner = self.model.tasks[task].owner
        reply = self.ask(owner, "GET", f"/v1/tasks/{ids.to_text(task)}/answer")
        assert reply.status == 200
        return reply.body

    def some_id(self, k: int, *states: str) -> bytes:
        """A task; mostly one in these states, if there are any."""
        of_state = [task for task in self.ids if self.model.tasks[task].state in states]
        known = of_state if of_state and k % 4 else self.ids
        return known[k % len(known)] if known else ids.new_id()

    def some_plain(self, name: str, k: int) -> tuple[str, bytes]:
        """A plain worker and a task; mostly one that it was given lately."""
        if not self.plain or k % 4 == 0:
            return name, self.some_id(k)
        return self.plain[-1 - k % min(4, len(self.plain))]

    def some_lease(self, k: int) -> tuple[str, Dealt] | None:
        if not self.leases:
            return None
        is_recent = k < 20
        return self.leases[-1 - k % min(3, len(self.leases)) if is_recent else k % len(self.leases)]

    # ---- calls on both sides

    def submit(
        self,
        who: str,
        path: str,
        body: bytes,
        task: bytes | None,
        key: str | None,
        options: dict[str, Any],
        fate: str,
    ) -> None:
        self.sent.append((path, body, task, key, options))
        headers = {} if key is None else {"Idempotency-Key": key}
        if fate == "no request":
            self.world.callers[who].lose_request("POST", path, body, headers)
            self.compare()
            return
        reply = self.ask(who, "POST", path, body, headers, fate=fate)
        given = reply.told.get("id")
        made = task or ids.from_text(given or "") or ids.new_id()
        self.told_of_submit(who, made, body, key, options, reply)
        self.compare()

    def told_of_submit(
        self,
        who: str,
        made: bytes,
        body: bytes,
        key: str | None,
        options: dict[str, Any],
        reply: Reply,
    ) -> None:
        status, told = self.model.submit(who, made, body, key, **options)
        assert (200 if reply.status == 202 else reply.status) == status
        if status == 200:
            assert reply.told["id"] == ids.to_text(told["id"])
            assert reply.told.get("duplicate", False) == told.get("duplicate", False)
            if told["id"] not in self.ids:
                self.ids.append(told["id"])

    def change(self, who: str, task: bytes, verb: str, fate: str) -> None:
        path = f"/v1/tasks/{ids.to_text(task)}/{verb}"
        if fate == "no request":
            self.world.callers[who].lose_request("POST", path, b"")
        else:
            status, _ = getattr(self.model, verb)(who, task)
            assert self.ask(who, "POST", path, fate=fate).status == status
            if verb == "retry" and status == 200:
                self.read.pop(task, None)
        self.compare()

    def wanted(self, reports: list[tuple[int, str, int]]) -> list[Wanted]:
        found = []
        for k, outcome, value in reports:
            values = VALUES.get(outcome, (b"",))
            found.append((self.some_lease(k), outcome, values[value % len(values)]))
        return found

    def exchange(
        self,
        name: str,
        wanted: list[Wanted],
        want: int,
        keeps: str | None,
        phase: Phase,
        draining: bool,
        is_lost: bool,
    ) -> ExchangeResult:
        agent = self.agents[name]
        self.told += [(name, each) for each in wanted if each[0] is not None]
        reports, decisions = agent.reports(wanted)
        agent.renew()
        agent.lose_older()
        said, stops = agent.hold(keeps, phase, {report.lease for report in reports})

        result = self.do(
            agent.worker.exchange(
                *reports, want=want, held=said, draining=draining, is_lost=is_lost
            )
        )

        assert [(each.status, each.duplicate) for each in result.decisions] == decisions
        assert stops <= set(result.stop)
        self.take(agent, result, 0 if draining else want)
        self.compare()
        return result

    def take(self, agent: Agent, result: ExchangeResult, want: int) -> None:
        for dealt in result.tasks:
            self.model.is_seen(dealt.id, "queued")
        self.leases += [(agent.name, dealt) for dealt in agent.dealt(result.tasks, want)]

    def submit_unseen(self, who: str, body: bytes, task: bytes) -> None:
        """Submit a task that may be leased at once."""
        reply = self.ask(who, "POST", "/v1/tasks", body)
        self.told_of_submit(who, task, body, None, {"environment": "e"}, reply)

    # ---- the server

    def start_again(self) -> None:
        self.world.start()
        self.starts += 1
        self.model.restart()
        if self.world.forgets_phases:  # to take them as started is the safe way
            self.model.started |= {
                task.lease for task in self.model.tasks.values() if task.state == RUNNING
            }

    def send_and_kill(
        self, connection: Connection, method: str, path: str, body: bytes, *, delay: float
    ) -> None:
        connection.send(connection.request(method, path, body))
        time.sleep(delay)
        self.world.kill()
        self.start_again()
