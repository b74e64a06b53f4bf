"""A success leaves the server only after what it tells is on disk, as strace saw it."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.protocol import ids
from tests.e2e.fsync_order import Claim, faults_in
from tests.e2e.system_calls import parse
from tests.e2e.watched import (
    WatchedPlace,
    calls_in,
    needs_strace,
    watched_place,
)
from tests.e2e.wire import Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SUBMITTERS = 4
TASKS = 15
"""Of each submitter."""


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlace]:
    needs_strace()
    with watched_place(tmp_path_factory, "--auth", "none") as here:
        yield here


def is_database(file: str) -> bool:
    """Whether syncing this file keeps a commit: the database's, or its write-ahead log's."""
    return Path(file).name in ("task-server.db", "task-server.db-wal")


class Caller:
    """Sends requests that can be told apart, and keeps what their success claims."""

    numbers = itertools.count()

    def __init__(self, here: WatchedPlace) -> None:
        self.connection = here.connection()
        self.claims: list[Claim] = []

    def ask(self, path: str, body: object, stored: bytes | None = None) -> dict[str, Any]:
        """Send a request that must succeed; its success claims that these bytes are on disk."""
        mark = f"request-{next(self.numbers):06}"
        reply = self.connection.ask(
            "POST", path, json.dumps(body).encode(), headers={"X-Mark": mark}
        )
        assert reply.status in (200, 202), reply
        self.claims.append(Claim(mark.encode(), stored))
        return reply.told

    def submit(self, count: int) -> list[bytes]:
        """Submit single tasks and lists, some with ids of ours; gives the ids that we made."""
        made = ids.new_ids(count)
        for each in made:
            task = {"id": ids.to_text(each), "function": "math:sqrt", "args": [4]}
            self.ask("/v1/tasks", task, each)
            plain = f"plain {each.hex()}"
            self.ask("/user/submit_task", {"function": "len", "args": [plain]}, plain.encode())
        listed = [{"function": "len", "args": [f"item {each.hex()}"]} for each in made]
        self.ask("/v1/tasks", listed, f"item {made[-1].hex()}".encode())
        return made


class Worker(Caller):
    """Leases and answers by exchange."""

    def __init__(self, here: WatchedPlace) -> None:
        super().__init__(here)
        facts = {"name": "w", "protocol": [1, 1], "slots": 1000, "pythons": ["3.11"]}
        self.joined = self.ask("/v1/workers", facts)
        self.number = 0

    def exchange(self, reports: list[dict[str, object]], want: int = 0) -> dict[str, Any]:
        """Exchange; if it reports, its success claims the last answer."""
        self.number += 1
        body = {"session": self.joined["session"], "number": self.number, "want": want}
        stored = json.dumps(reports[-1]["answer"]).encode() if reports else None
        path = f"/v1/workers/{self.joined['worker']}/exchange"
        return self.ask(path, body | {"seen": self.number - 1, "reports": reports}, stored)


def report(lease: str) -> dict[str, object]:
    return {
        "lease": lease,
        "outcome": "succeeded",
        "encoding": "json",
        "answer": f"answer {lease}",
    }


def submit_at_once(here: WatchedPlace) -> list[Claim]:
    """Several submitters, so that commits are shared and replies overlap with other syncs."""
    callers = [Caller(here) for _ in range(SUBMITTERS)]
    threads = [threading.Thread(target=caller.submit, args=(TASKS,)) for caller in callers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    claims = [claim for caller in callers for claim in caller.claims]
    assert len(claims) == SUBMITTERS * (2 * TASKS + 1)
    return claims


def test_a_task_is_on_disk_before_its_submit_succeeds(here: WatchedPlace) -> None:
    trace = here.watch()
    server = here.serve()

    claims = submit_at_once(here)

    server.kill()
    assert faults_in(calls_in(trace), claims, is_database=is_database) == []


def test_an_answer_is_on_disk_before_its_exchange_succeeds(here: WatchedPlace) -> None:
    trace = here.watch()
    server = here.serve()
    caller, worker = Caller(here), Worker(here)

    for _ in range(5):
        caller.submit(2)
        tasks = worker.exchange([], want=6)["tasks"]
        reply = worker.exchange([report(task["lease"]) for task in tasks])
        assert [each["status"] for each in reply["decisions"]] == [200] * 6

    server.kill()
    claims = caller.claims + worker.claims
    assert faults_in(calls_in(trace), claims, is_database=is_database) == []


def test_plain_answers_cancels_and_retries_are_on_disk_before_their_success(
    here: WatchedPlace,
) -> None:
    trace = here.watch()
    server = here.serve()
    caller = Caller(here)

    for each in caller.submit(3):
        path = f"/v1/tasks/{ids.to_text(each)}"
        caller.ask(f"{path}/cancel", {})
        caller.ask(f"{path}/retry", {})
        given = lease_plain(caller)
        answer = f"answer of {given['id']}"
        body = {"id": given["id"], "answer": answer}
        caller.ask("/worker/submit_answer", body, json.dumps(answer).encode())

    server.kill()
    assert faults_in(calls_in(trace), caller.claims, is_database=is_database) == []


def lease_plain(caller: Caller) -> dict[str, Any]:
    mark = f"request-{next(caller.numbers):06}"
    reply: Reply = caller.connection.ask("GET", "/worker/request_task", headers={"X-Mark": mark})
    assert reply.told["sucsess"] is True
    caller.claims.append(Claim(mark.encode()))
    return reply.told


# ---- the check itself can fail


def test_a_server_that_does_not_sync_is_found_out(here: WatchedPlace) -> None:
    here.break_server("unsynced")
    trace = here.watch()
    server = here.serve()

    claims = submit_at_once(here)

    server.kill()
    faults = faults_in(calls_in(trace), claims, is_database=is_database)
    assert len(faults) == len(claims)


def without_syncs(lines: list[str]) -> list[str]:
    return [line for line in lines if "fdatasync" not in line]


def with_failed_syncs(lines: list[str]) -> list[str]:
    return [
        line.replace("= 0", "= -1 EIO (Input/output error)") if "fdatasync" in line else line
        for line in lines
    ]


def with_pretended_syncs(lines: list[str]) -> list[str]:
    return [
        line.replace("= 0", "= 0 (INJECTED)") if "fdatasync" in line else line for line in lines
    ]


def with_syncs_of_another_file(lines: list[str]) -> list[str]:
    wal, other = ("".join(f"\\x{each:02x}" for each in name) for name in (b".db-wal", b".db-xxx"))
    return [line.replace(wal, other) if "fdatasync" in line else line for line in lines]


def with_syncs_after_the_reply(lines: list[str]) -> list[str]:
    reply = "".join(f"\\x{each:02x}" for each in b"HTTP/1.1 2")
    late: list[str] = []
    held: list[str] = []
    for line in lines:
        if "fdatasync" in line:
            held.append(line)
            continue
        late.append(line)
        if reply in line:
            late += held
            held = []
    return late


@pytest.mark.parametrize(
    "doctor",
    [
        without_syncs,
        with_failed_syncs,
        with_pretended_syncs,
        with_syncs_of_another_file,
        with_syncs_after_the_reply,
    ],
)
def test_a_trace_without_the_right_syncs_is_found_out(
    recorded: tuple[list[str], list[Claim]], doctor: Any
) -> None:
    lines, claims = recorded

    assert faults_in(parse(lines), claims, is_database=is_database) == []
    faults = faults_in(parse(doctor(lines)), claims, is_database=is_database)

    assert len(faults) == len(claims)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], list[Claim]]:
    """A trace of one caller, whose requests come one after the other."""
    needs_strace()
    with watched_place(tmp_path_factory, "--auth", "none") as here:
        trace = here.watch()
        server = here.serve()
        caller = Caller(here)
        caller.submit(10)
        server.kill()
        return trace.read_text().splitlines(), caller.claims
