"""A server beside the executable model of delivery: the same calls over HTTP, the same outcome.

Exact are states, generations, attempts, statuses, duplicates and the bytes of answers, also across
kills and lost requests and replies. Not driven here, because they need the server's clock or the
package index: leases that run out, `start_by`, retention, locks that fail (see tests/store).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine
from typing import Any, ClassVar, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from task_server.protocol import ids
from task_server.protocol.workers import Phase
from task_server.store.contract import Dealt, ExchangeResult
from tests.delivery_model import OPEN, RUNNING, SUCCEEDED
from tests.e2e.http_delivery import HttpDelivery, HttpWorker, HttpWorld, read_result
from tests.e2e.wire import Connection, Reply
from tests.store.delivery import Agent

USERS = ["u0", "u1"]
SESSIONS = ["w0", "w1", "w2"]
PLAIN = ["p0", "p1"]
PYTHONS = {"e": "3.11", "f": "3.12"}
"""Environments that need no package index."""
BACKOFF = 4.0
VALUES = {
    "ok": (b"1", b"2.50", b'{"b": 1, "a": [1e2]}'),
    "error": (b"error 1", b"error 2"),
    "final": (b"final 1", b"final 2"),
}
PARK_SECONDS = 20.0

T = TypeVar("T")
Wanted = tuple[tuple[str, Dealt] | None, str, bytes]
"""A lease with whose it is, what to report of it, and the answer or error."""


class HttpMachine(RuleBasedStateMachine):
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
        result = self._exchange("w0", [], 1000, None, "leased", False, False)
        wanted: list[Wanted] = [(("w0", dealt), "ok", b'"end"') for dealt in result.tasks]
        while wanted:
            self._exchange("w0", wanted[:100], 0, None, "leased", False, False)
            wanted = wanted[100:]
        for task, first in self.read.items():
            assert self.answer_of(task) == first
        for user in USERS:
            for task in [each for each in self.model.tasks.values() if each.owner == user]:
                self.cancel(user, task.id)
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

    def some_id(self, k: int) -> bytes:
        return self.ids[k % len(self.ids)] if self.ids else ids.new_id()

    def some_lease(self, k: int) -> tuple[str, Dealt] | None:
        if not self.leases:
            return None
        is_recent = k < 20
        return self.leases[-1 - k % min(3, len(self.leases)) if is_recent else k % len(self.leases)]

    # ---- users

    who = st.sampled_from(USERS)
    number = st.integers(0, 30)
    fate = st.sampled_from(["whole", "whole", "whole", "no reply", "no request"])

    @rule(
        who=who,
        known=st.one_of(st.none(), st.just(-1), number),
        key=st.sampled_from([None, None, "k0", "k1"]),
        content=st.sampled_from(["a", "b"]),
        attempts=st.integers(1, 3),
        at_most_once=st.booleans(),
        environment=st.sampled_from(["e", "e", "f"]),
        fate=fate,
    )
    def submit(
        self,
        who: str,
        known: int | None,
        key: str | None,
        content: str,
        attempts: int,
        at_most_once: bool,
        environment: str,
        fate: str,
    ) -> None:
        """`known`: a new id, the server's (-1), or one that there is."""
        task = None if known == -1 else ids.new_id() if known is None else self.some_id(known)
        fields = {
            "id": None if task is None else ids.to_text(task),
            "function": "math:sqrt",
            "args": [content],
            "python": PYTHONS[environment],
            "at_most_once": at_most_once,
            "retries": {"max": attempts - 1, "backoff": BACKOFF, "on": ["exception"]},
        }
        body = json.dumps(fields).encode()
        options = {
            "max_attempts": attempts,
            "at_most_once": at_most_once,
            "environment": environment,
        }
        self._submit(who, "/v1/tasks", body, task, key, options, fate)

    @rule(
        who=who,
        key=st.sampled_from([None, None, "k0", "k1"]),
        content=st.sampled_from(["a", "b"]),
        fate=fate,
    )
    def submit_plain(self, who: str, key: str | None, content: str, fate: str) -> None:
        body = json.dumps({"function": "len", "args": [content]}).encode()
        self._submit(who, "/user/submit_task", body, None, key, {"environment": "e"}, fate)

    def _submit(
        self,
        who: str,
        path: str,
        body: bytes,
        task: bytes | None,
        key: str | None,
        options: dict[str, Any],
        fate: str,
    ) -> None:
        headers = {} if key is None else {"Idempotency-Key": key}
        if fate == "no request":
            self.world.callers[who].lose_request("POST", path, body, headers)
            self.compare()
            return
        reply = self.ask(who, "POST", path, body, headers, fate=fate)
        given = reply.told.get("id")
        made = task or ids.from_text(given or "") or ids.new_id()
        self._told_of_submit(who, made, body, key, options, reply)
        self.compare()

    def _told_of_submit(
        self,
        who: str,
        made: bytes,
        body: bytes,
        key: str | None,
        options: dict[str, Any],
        reply: Reply,
    ) -> None:
        is_new = made not in self.model.tasks
        # An id of the server's that is not new can only be that of the key's task.
        new = ids.new_id() if not is_new and made not in self.ids else made
        status, told = self.model.submit(who, new, body, key, **options)
        assert reply.status == (status if status != 200 else reply.status)
        assert reply.status in (200, 202, 409)
        if status == 200:
            assert reply.told["id"] == ids.to_text(told["id"])
            assert reply.told.get("duplicate", False) == told.get("duplicate", False)
            if told["id"] not in self.ids:
                self.ids.append(told["id"])

    @rule(who=who, k=number, fate=fate)
    def cancel(self, who: str, k: int | bytes, fate: str = "whole") -> None:
        self._change(who, k, "cancel", fate)

    @rule(who=who, k=number, fate=fate)
    def retry(self, who: str, k: int, fate: str) -> None:
        self._change(who, k, "retry", fate)

    def _change(self, who: str, k: int | bytes, verb: str, fate: str) -> None:
        task = k if isinstance(k, bytes) else self.some_id(k)
        path = f"/v1/tasks/{ids.to_text(task)}/{verb}"
        if fate == "no request":
            self.world.callers[who].lose_request("POST", path, b"")
        else:
            status, _ = getattr(self.model, verb)(who, task)
            assert self.ask(who, "POST", path, fate=fate).status == status
            if verb == "retry" and status == 200:
                self.read.pop(task, None)
        self.compare()

    @rule(who=who, k=number)
    def read_plain(self, who: str, k: int) -> None:
        task = self.some_id(k)
        reply = self.ask(who, "GET", f"/user/request_answer/{ids.to_text(task)}")
        status, told = self.model.read(who, task)
        assert (reply.status, reply.told["sucsess"]) == (status, told["sucsess"])
        if told["sucsess"]:
            assert b'"answer":' + told["answer"] in reply.body
        elif status == 200:
            self.model.is_seen(task, reply.told["state"])
            assert reply.told["state"] == self.model.tasks[task].state

    # ---- workers

    @rule(
        name=st.sampled_from(SESSIONS),
        reports=st.lists(
            st.tuples(
                number,
                st.sampled_from(["ok", "ok", "error", "final", "crashed", "released", "unfit"]),
                number,
            ),
            max_size=3,
        ),
        want=st.integers(0, 2),
        keeps=st.sampled_from([None, None, "all", "half", "none"]),
        phase=st.sampled_from(["leased", "installing", "running"]),
        draining=st.sampled_from([False, False, False, True]),
        is_lost=st.booleans(),
    )
    def exchange(
        self,
        name: str,
        reports: list[tuple[int, str, int]],
        want: int,
        keeps: str | None,
        phase: Phase,
        draining: bool,
        is_lost: bool,
    ) -> None:
        self._exchange(name, self._wanted(reports), want, keeps, phase, draining, is_lost)

    def _wanted(self, reports: list[tuple[int, str, int]]) -> list[Wanted]:
        found = []
        for k, outcome, value in reports:
            values = VALUES.get(outcome, (b"",))
            found.append((self.some_lease(k), outcome, values[value % len(values)]))
        return found

    def _exchange(
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
        self._take(agent, result, 0 if draining else want)
        self.compare()
        return result

    def _take(self, agent: Agent, result: ExchangeResult, want: int) -> None:
        for dealt in result.tasks:
            self.model.is_seen(dealt.id, "queued")
        self.leases += [(agent.name, dealt) for dealt in agent.dealt(result.tasks, want)]

    @rule(name=st.sampled_from(SESSIONS))
    def join(self, name: str) -> None:
        self.do(self.agents[name].join())
        self.compare()

    @rule(name=st.sampled_from(SESSIONS), who=who)
    def submit_to_parked(self, name: str, who: str) -> None:
        """A task reaches a worker that waits for one."""
        self._exchange(name, [], 0, None, "leased", False, False)  # any other news ends a wait
        agent = self.agents[name]
        agent.renew()
        found: list[ExchangeResult] = []

        def wait() -> None:
            found.append(asyncio.run(agent.worker.exchange(want=1, wait=PARK_SECONDS)))

        thread = threading.Thread(target=wait)
        thread.start()
        task = ids.new_id()
        body = json.dumps({"id": ids.to_text(task), "function": "len", "args": ["p"]}).encode()
        self._submit_unseen(who, body, task)
        begun = time.monotonic()
        thread.join(PARK_SECONDS + 5)

        assert time.monotonic() - begun < PARK_SECONDS / 2
        self._take(agent, found[0], 1)
        self.compare()

    def _submit_unseen(self, who: str, body: bytes, task: bytes) -> None:
        """Submit a task that may be leased at once."""
        reply = self.ask(who, "POST", "/v1/tasks", body)
        self._told_of_submit(who, task, body, None, {"environment": "e"}, reply)

    @rule(name=st.sampled_from(PLAIN), is_lost=st.booleans())
    def plain_lease(self, name: str, is_lost: bool) -> None:
        fate = "no reply" if is_lost else "whole"
        told = self.ask(name, "GET", "/worker/request_task", fate=fate).told
        task = ids.from_text(told.get("id", ""))
        if task is None:
            assert not self.model.fitting(name)
        else:
            self.model.is_seen(task, "queued")
            lease = f"plain {sum(each.attempt for each in self.model.tasks.values())}"
            self.model.lease(name, lease, chosen=task, renews=False)
        self.compare()

    @rule(
        name=st.sampled_from(PLAIN),
        k=number,
        is_success=st.booleans(),
        value=number,
        fate=fate,
    )
    def plain_answer(self, name: str, k: int, is_success: bool, value: int, fate: str) -> None:
        task = self.some_id(k)
        outcome = VALUES["ok" if is_success else "error"][value % 2]
        fields = {"id": ids.to_text(task)}
        if not is_success:
            fields["exception"] = outcome.decode()
        body = json.dumps(fields).encode()
        if is_success:
            body = body[:-1] + b',"answer":%s}' % outcome
        if fate == "no request":
            self.world.callers[name].lose_request("POST", "/worker/submit_answer", body)
        else:
            status, told = self.model.answer(name, task, outcome, ok=is_success)
            reply = self.ask(name, "POST", "/worker/submit_answer", body, fate=fate)
            assert reply.status == status
            assert reply.told.get("duplicate", False) == told.get("duplicate", False)
        self.compare()

    # ---- the server

    chance = st.integers(0, 3)
    delay = st.floats(0, 0.01)

    @rule(chance=chance, is_killed=st.booleans())
    def restart(self, chance: int, is_killed: bool) -> None:
        if chance != 3:
            return  # it takes a second
        (self.world.kill if is_killed else self.world.stop)()
        self._start_again()
        self.compare()

    def _start_again(self) -> None:
        self.world.start()
        self.model.restart()
        if self.world.forgets_phases:  # to take them as started is the safe way
            self.model.started |= {
                task.lease for task in self.model.tasks.values() if task.state == RUNNING
            }

    @rule(chance=chance, who=who, content=st.sampled_from(["a", "b"]), delay=delay)
    def submit_in_a_kill(self, chance: int, who: str, content: str, delay: float) -> None:
        """Nobody knows whether it was taken; sending it again is safe."""
        if chance != 3:
            return
        task = ids.new_id()
        fields = {"id": ids.to_text(task), "function": "len", "args": [content]}
        body = json.dumps(fields).encode()
        request = ("POST", "/v1/tasks", body)
        self._send_and_kill(self.world.callers[who], *request, delay=delay)

        reply = self.ask(who, *request)

        assert (reply.status, reply.told["id"]) == (202, ids.to_text(task))
        self.model.submit(who, task, body, environment="e")
        self.ids.append(task)
        self.compare()

    @rule(
        chance=chance,
        name=st.sampled_from(SESSIONS),
        k=number,
        outcome=st.sampled_from(sorted(VALUES)),
        value=number,
        delay=delay,
    )
    def answer_in_a_kill(
        self, chance: int, name: str, k: int, outcome: str, value: int, delay: float
    ) -> None:
        """Nobody knows whether it was taken; telling it again is safe."""
        if chance != 3 or not self.leases:
            return
        agent = self.agents[name]
        worker: Any = agent.worker
        reports, decisions = agent.reports(self._wanted([(k, outcome, value)]))
        agent.renew()
        agent.lose_older()
        worker.number += 1
        self._send_and_kill(worker.connection, *worker.request(reports), delay=delay)
        worker.number += 1

        result = read_result(worker.connection.ask(*worker.request(reports)))

        worker.seen = worker.number
        assert [each.status for each in result.decisions] == [status for status, _ in decisions]
        self._take(agent, result, 0)
        self.compare()

    def _send_and_kill(
        self, connection: Connection, method: str, path: str, body: bytes, *, delay: float
    ) -> None:
        connection.send(connection.request(method, path, body))
        time.sleep(delay)
        self.world.kill()
        self._start_again()
