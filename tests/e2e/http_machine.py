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
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from task_server.protocol import ids
from task_server.protocol.workers import Phase
from task_server.store.sessions import ExchangeResult
from tests.delivery_model import CANCELLED, FAILED
from tests.e2e.http_delivery import read_result
from tests.e2e.http_sides import PLAIN, SESSIONS, USERS, VALUES, Sides

PYTHONS = {"e": "3.11", "f": "3.12"}
"""Environments that need no package index."""
BACKOFF = 4.0
PARK_SECONDS = 20.0


STEPS_BETWEEN_KILLS = 30
"""A restart takes as long as hundreds of steps."""


def may_kill(sides: Sides) -> bool:
    """Whether enough has happened since the server was started last."""
    return sides.steps > STEPS_BETWEEN_KILLS * (sides.starts + 1)


class HttpMachine(Sides):
    """All that users, workers and bad luck can do to a server."""

    who = st.sampled_from(USERS)
    number = st.integers(0, 30)
    fate = st.sampled_from(["whole", "whole", "whole", "no reply", "no request"])

    # ---- users

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
    def submit_task(
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
        self.submit(who, "/v1/tasks", body, task, key, options, fate)

    @rule(
        who=who,
        key=st.sampled_from([None, None, "k0", "k1"]),
        content=st.sampled_from(["a", "b"]),
        fate=fate,
    )
    def submit_plain(self, who: str, key: str | None, content: str, fate: str) -> None:
        body = json.dumps({"function": "len", "args": [content]}).encode()
        self.submit(who, "/user/submit_task", body, None, key, {"environment": "e"}, fate)

    @rule(who=who, k=number, fate=fate)
    def submit_again(self, who: str, k: int, fate: str) -> None:
        """What was sent before, perhaps by somebody else, is sent once more."""
        if self.sent:
            self.submit(who, *self.sent[-1 - k % len(self.sent)], fate)

    @rule(who=who, k=number, fate=fate)
    def cancel(self, who: str, k: int, fate: str) -> None:
        self.change(who, self.some_id(k), "cancel", fate)

    @rule(who=who, k=number, fate=fate)
    def retry(self, who: str, k: int, fate: str) -> None:
        self.change(who, self.some_id(k, FAILED, CANCELLED), "retry", fate)

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
    def report_and_ask(
        self,
        name: str,
        reports: list[tuple[int, str, int]],
        want: int,
        keeps: str | None,
        phase: Phase,
        draining: bool,
        is_lost: bool,
    ) -> None:
        self.exchange(name, self.wanted(reports), want, keeps, phase, draining, is_lost)

    @rule(k=st.integers(0, 5))
    def report_again(self, k: int) -> None:
        """What was told lately is told once more, and by then perhaps too late."""
        if self.told:
            name, wanted = self.told[-1 - k % len(self.told)]
            self.exchange(name, [wanted], 0, None, "leased", False, False)

    @rule(name=st.sampled_from(SESSIONS))
    def join(self, name: str) -> None:
        self.do(self.agents[name].join())
        self.compare()

    @rule(name=st.sampled_from(SESSIONS), who=who)
    def submit_to_parked(self, name: str, who: str) -> None:
        """A task reaches a worker that waits for one."""
        if (name, "e") in self.model.broken:
            return  # it was unfit for that, and is not offered it again
        self.exchange(name, [], 0, None, "leased", False, False)  # any other news ends a wait
        agent = self.agents[name]
        agent.renew()
        found: list[ExchangeResult] = []

        def wait() -> None:
            found.append(asyncio.run(agent.worker.exchange(want=1, wait=PARK_SECONDS)))

        thread = threading.Thread(target=wait)
        thread.start()
        task = ids.new_id()
        body = json.dumps({"id": ids.to_text(task), "function": "len", "args": ["p"]}).encode()
        self.submit_unseen(who, body, task)
        begun = time.monotonic()
        thread.join(PARK_SECONDS + 5)

        assert time.monotonic() - begun < PARK_SECONDS / 2
        self.take(agent, found[0], 1)
        self.compare()

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
            self.plain.append((name, task))
        self.compare()

    @rule(
        name=st.sampled_from(PLAIN),
        k=number,
        is_success=st.booleans(),
        value=number,
        fate=fate,
    )
    def plain_answer(self, name: str, k: int, is_success: bool, value: int, fate: str) -> None:
        name, task = self.some_plain(name, k)
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

    delay = st.floats(0, 0.01)

    @precondition(may_kill)
    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        (self.world.kill if is_killed else self.world.stop)()
        self.start_again()
        self.compare()

    @precondition(may_kill)
    @rule(who=who, content=st.sampled_from(["a", "b"]), delay=delay)
    def submit_in_a_kill(self, who: str, content: str, delay: float) -> None:
        """Nobody knows whether it was taken; sending it again is safe."""
        task = ids.new_id()
        fields = {"id": ids.to_text(task), "function": "len", "args": [content]}
        body = json.dumps(fields).encode()
        request = ("POST", "/v1/tasks", body)
        self.send_and_kill(self.world.callers[who], *request, delay=delay)

        reply = self.ask(who, *request)

        assert (reply.status, reply.told["id"]) == (202, ids.to_text(task))
        self.model.submit(who, task, body, environment="e")
        self.ids.append(task)
        self.compare()

    @precondition(lambda self: may_kill(self) and bool(self.leases))
    @rule(
        name=st.sampled_from(SESSIONS),
        k=number,
        outcome=st.sampled_from(sorted(VALUES)),
        value=number,
        delay=delay,
    )
    def answer_in_a_kill(self, name: str, k: int, outcome: str, value: int, delay: float) -> None:
        """Nobody knows whether it was taken; telling it again is safe."""
        agent = self.agents[name]
        worker: Any = agent.worker
        reports, decisions = agent.reports(self.wanted([(k, outcome, value)]))
        agent.renew()
        agent.lose_older()
        worker.number += 1
        self.send_and_kill(worker.connection, *worker.request(reports), delay=delay)
        worker.number += 1

        result = read_result(worker.connection.ask(*worker.request(reports)))

        worker.seen = worker.number
        assert [each.status for each in result.decisions] == [status for status, _ in decisions]
        self.take(agent, result, 0)
        self.compare()
