"""Work for a server whose every write is recorded, and what the server told of it."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from task_server.protocol import ids
from tests.e2e.power import replies
from tests.e2e.system_calls import Call
from tests.e2e.watched import WatchedPlace, calls_in
from tests.e2e.wire import Reply

CALLERS = 3
ROUNDS = 12
"""Of each caller, in each life of the server."""
BUFFER = 1 << 20
"""Bytes that strace has to keep of the longest write."""
CALLS = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "ftruncate", "fallocate"),
    *("fsync", "fdatasync", "sync_file_range", "syncfs", "msync", "openat"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir"),
    *("mkdir", "mkdirat"),
)


class Fact(Struct):
    """What a reply told: it has to be on disk once the reply has left."""

    life: int
    port: int
    number: int
    """The reply's on its connection."""
    task: bytes | None = None
    state: str = "queued"
    answer: bytes | None = None
    blob: str | None = None
    left: int = 0
    """When the reply left, in the order of the trace."""


class Caller:
    """Submits, leases, answers, cancels and uploads; keeps what it was told."""

    def __init__(self, here: WatchedPlace, life: int, seed: str) -> None:
        self.connection = here.connection()
        self.life = life
        self.chance = random.Random(seed)
        self.facts: list[Fact] = []

    def work(self) -> None:
        worker = self.join()
        for number in range(1, ROUNDS + 1):
            tasks = self.submit(number)
            given = self.exchange(worker, number * 2 - 1, [], want=3)
            self.exchange(worker, number * 2, [self.report(task) for task in given["tasks"]])
            self.answer_plain()
            self.cancel(tasks[-1])
            if number % 4 == 0:
                self.upload(b"%d" % number * self.chance.randrange(50_000, 90_000))

    def tell(self, reply: Reply, **fact: Any) -> None:
        """Note what a reply told."""
        assert reply.status in (200, 201, 202), reply
        port, number = self.connection.port, self.connection.replies
        self.facts.append(Fact(self.life, port, number, **fact))

    def text(self, most: int) -> str:
        """Some text that is not zeros."""
        return self.chance.randbytes(self.chance.randrange(8, most) // 2).hex()

    def submit(self, number: int) -> list[bytes]:
        made = ids.new_ids(4)
        sizes = (30, 3_000, 40_000, 150_000 if number % 4 == 0 else 300)
        items = [
            {"id": ids.to_text(task), "function": "len", "args": [self.text(size)]}
            for task, size in zip(made, sizes, strict=True)
        ]
        reply = self.connection.ask("POST", "/v1/tasks", json.dumps(items).encode())
        for task in made:
            self.tell(reply, task=task)
        return made

    def join(self) -> dict[str, Any]:
        facts = {"name": "w", "protocol": [1, 1], "slots": 100, "pythons": ["3.11"]}
        reply = self.connection.ask("POST", "/v1/workers", json.dumps(facts).encode())
        return reply.told

    def exchange(
        self, worker: dict[str, Any], number: int, reports: list[dict[str, Any]], want: int = 0
    ) -> dict[str, Any]:
        body = {"session": worker["session"], "number": number, "seen": number - 1, "want": want}
        path = f"/v1/workers/{worker['worker']}/exchange"
        sent = [{k: v for k, v in report.items() if k != "task"} for report in reports]
        reply = self.connection.ask("POST", path, json.dumps(body | {"reports": sent}).encode())
        for task in reply.told["tasks"]:
            self.tell(reply, task=ids.from_text(task["id"]), state="running")
        assert {each["status"] for each in reply.told["decisions"]} <= {200, 410}
        for report, decision in zip(reports, reply.told["decisions"], strict=True):
            if decision["status"] == 200:
                self.tell_end(reply, report)
        return reply.told

    def tell_end(self, reply: Reply, report: dict[str, Any]) -> None:
        answer = report.get("blob", "").encode() or json.dumps(report["answer"]).encode()
        self.tell(reply, task=report["task"], state="succeeded", answer=answer)

    def report(self, task: dict[str, Any]) -> dict[str, Any]:
        report = {"lease": task["lease"], "outcome": "succeeded", "encoding": "json"}
        report["task"] = ids.from_text(task["id"])
        if self.chance.random() < 0.1:
            return report | {"blob": self.upload(json.dumps(self.text(200_000)).encode())}
        return report | {"answer": self.text(self.chance.choice([40, 4_000, 60_000]))}

    def answer_plain(self) -> None:
        reply = self.connection.ask("GET", "/worker/request_task")
        if not reply.told["sucsess"]:
            return
        task = ids.from_text(reply.told["id"])
        self.tell(reply, task=task, state="running")
        answer = self.text(2_000)
        body = json.dumps({"id": reply.told["id"], "answer": answer}).encode()
        done = self.connection.ask("POST", "/worker/submit_answer", body)
        if done.status == 200:
            self.tell_end(done, {"task": task, "answer": answer})

    def cancel(self, task: bytes) -> None:
        path = f"/v1/tasks/{ids.to_text(task)}/cancel"
        reply = self.connection.ask("POST", path, b"{}")
        if reply.status == 200:
            self.tell(reply, task=task, state="cancelled")

    def upload(self, data: bytes) -> str:
        name = "sha256:" + hashlib.sha256(data).hexdigest()
        self.tell(self.connection.ask("PUT", f"/v1/blobs/{name}", data), blob=name)
        return name


class Recording(Struct):
    """The lives of a server: what it did on disk, and what it told."""

    root: Path
    """The server's folder; there was nothing in it."""
    calls: list[Call]
    facts: list[Fact]


def record(here: WatchedPlace, *, seed: int, lives: Sequence[str]) -> Recording:
    """Have a server work, die and start again; `lives` says how each life ends."""
    calls: list[Call] = []
    facts: list[Fact] = []
    program = here.program
    for life, end in enumerate(lives):
        here.program = program
        trace = here.watch(longest=BUFFER, calls=CALLS)
        server = here.serve()
        callers = [Caller(here, life, f"{seed} {life} {n}") for n in range(CALLERS)]
        run_all(callers)
        if end == "kill":
            server.kill()
        else:
            assert server.stop() == 0
        _append(calls, facts, calls_in(trace), [f for caller in callers for f in caller.facts])
    return Recording(here.data, calls, facts)


def run_all(callers: Sequence[Caller]) -> None:
    failed: list[BaseException] = []

    def run(caller: Caller) -> None:
        try:
            caller.work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    if failed:
        raise failed[0]


def _append(calls: list[Call], facts: list[Fact], more: list[Call], told: list[Fact]) -> None:
    """Put the calls of a life behind those before it, and find when its replies left."""
    shift = max((max(call.begun, call.ended or 0) for call in calls), default=0) + 1
    for call in more:
        call.begun += shift
        if call.ended is not None:
            call.ended += shift
    left = replies(more)
    for fact in told:
        fact.left = left[fact.port, fact.number]
    calls += more
    facts += told
