"""A disk that fails or is slow: no false success, nothing lost, latency only."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from task_server.protocol import ids
from tests.e2e.processes import Process, figures
from tests.e2e.watched import WatchedPlace, ends, needs_strace, watched_place
from tests.e2e.wire import Connection, Reply

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

SYNCS = 30
"""How many syncs of a thread work before the disk fails."""
FAILING = f"fdatasync:error=EIO:when={SYNCS}+"
SYNC_SECONDS = 0.2
SLOW = f"fdatasync:delay_enter={SYNC_SECONDS * 1e6:.0f}"
CALLERS = 64


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedPlace]:
    needs_strace()
    with watched_place(tmp_path_factory, "--auth", "none") as here:
        yield here


def serve_with(here: WatchedPlace, fault: str) -> Process:
    """Start a server whose disk has this fault."""
    here.watch(fault, calls=["fdatasync"])
    server = here.serve()
    here.mend_server()
    return server


def submit(connection: Connection, task: str) -> Reply:
    body = {"id": task, "function": "math:sqrt", "args": [4]}
    return connection.ask("POST", "/v1/tasks", json.dumps(body).encode())


def state(connection: Connection, task: str) -> Any:
    return connection.ask("GET", f"/v1/tasks/{task}").told["state"]


def check_refused(reply: Reply) -> None:
    assert reply.status == 503 and reply.told["code"] == "unavailable", reply
    assert reply.told["retryable"] is True


# ---- a sync that fails


def test_a_submit_whose_sync_fails_is_refused_and_the_server_ends(here: WatchedPlace) -> None:
    server = serve_with(here, FAILING)
    connection = here.connection()
    taken, refused = [], ""

    while not refused:
        task = ids.to_text(ids.new_id())
        reply = submit(connection, task)
        if reply.status == 202:
            taken.append(task)
            assert len(taken) < 10 * SYNCS
        else:
            check_refused(reply)
            refused = task

    assert ends(server) == 1
    connection.close()
    here.serve()
    assert len(taken) > SYNCS / 2
    assert {state(connection, task) for task in taken} == {"queued"}
    assert submit(connection, refused).status == 202  # sending it again is safe
    assert state(connection, refused) == "queued"


def test_many_submits_whose_shared_sync_fails_are_all_refused(here: WatchedPlace) -> None:
    server = serve_with(here, FAILING)
    replies: dict[str, int] = {}

    def work() -> None:
        with here.connection() as connection:
            try:
                while True:
                    task = ids.to_text(ids.new_id())
                    replies[task] = submit(connection, task).status
            except OSError:
                return  # the server has ended

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    assert ends(server) == 1
    for thread in threads:
        thread.join(20)

    assert set(replies.values()) == {202, 503}
    here.serve()
    with here.connection() as connection:
        taken = [task for task, status in replies.items() if status == 202]
        assert {state(connection, task) for task in taken} == {"queued"}


def test_an_answer_whose_sync_fails_is_refused_and_told_again(here: WatchedPlace) -> None:
    server = serve_with(here, FAILING)
    connection = here.connection()
    tasks = [ids.to_text(each) for each in ids.new_ids(10 * SYNCS)]
    items = [{"id": task, "function": "math:sqrt", "args": [4]} for task in tasks]
    connection.ask("POST", "/v1/tasks", json.dumps(items).encode())
    worker = Worker(connection, slots=len(tasks))
    given = worker.exchange(want=len(tasks)).told["tasks"]
    assert len(given) == len(tasks)
    taken = []

    for task in given:
        reply = worker.answer(task)
        if reply.status != 200:
            break
        taken.append(task)

    check_refused(reply)
    assert ends(server) == 1 and taken
    connection.close()
    here.serve()
    for each in taken:
        answer = connection.ask("GET", f"/v1/tasks/{each['id']}/answer")
        assert (answer.status, answer.body) == (200, worker.value(each))
    again = worker.answer(task).told["decisions"]
    assert again[0]["status"] == 200
    assert connection.ask("GET", f"/v1/tasks/{task['id']}/answer").body == worker.value(task)


class Worker:
    """Leases and answers by exchange."""

    def __init__(self, connection: Connection, *, slots: int) -> None:
        self.connection = connection
        facts = {"name": "w", "protocol": [1, 1], "slots": slots, "pythons": ["3.11"]}
        self.joined = connection.ask("POST", "/v1/workers", json.dumps(facts).encode()).told
        self.number = 0

    def exchange(self, reports: list[dict[str, Any]] | None = None, want: int = 0) -> Reply:
        self.number += 1
        body = {"session": self.joined["session"], "number": self.number, "want": want}
        body |= {"seen": self.number - 1, "reports": reports or []}
        path = f"/v1/workers/{self.joined['worker']}/exchange"
        return self.connection.ask("POST", path, json.dumps(body).encode())

    def value(self, task: dict[str, Any]) -> bytes:
        """The answer of a task, as JSON."""
        return json.dumps(f"answer of {task['id']}").encode()

    def answer(self, task: dict[str, Any]) -> Reply:
        """Report a success."""
        report = {"lease": task["lease"], "outcome": "succeeded", "encoding": "json"}
        return self.exchange([report | {"answer": json.loads(self.value(task))}])


# ---- syncs that are slow


def test_a_slow_disk_costs_latency_and_commits_are_shared(here: WatchedPlace) -> None:
    server = serve_with(here, SLOW)
    with here.connection() as connection:
        alone = [seconds_of_submit(connection) for _ in range(8)]

    begun = time.monotonic()
    together = submit_at_once(here, seconds=3.0)
    seconds = time.monotonic() - begun

    rate_alone, rate_together = len(alone) / sum(alone), len(together) / seconds
    figures("%.1f submits/s alone, %.0f together", rate_alone, rate_together)
    assert min(alone) >= SYNC_SECONDS and min(together) >= SYNC_SECONDS
    assert rate_together >= 5 * rate_alone, (rate_alone, rate_together)
    assert server.is_alive()


def seconds_of_submit(connection: Connection) -> float:
    begun = time.monotonic()
    assert submit(connection, ids.to_text(ids.new_id())).status == 202
    return time.monotonic() - begun


def submit_at_once(here: WatchedPlace, *, seconds: float) -> list[float]:
    """How long each submit took of those that many callers made one after the other."""
    took: list[float] = []
    end = time.monotonic() + seconds

    def work() -> None:
        with here.connection() as connection:
            while time.monotonic() < end:
                took.append(seconds_of_submit(connection))

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return took
