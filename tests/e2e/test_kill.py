"""What is killed loses nothing: every task that was taken has its one right answer afterwards."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from task_server.protocol import ids
from tests.e2e.processes import Place, Process, place, runners_of, until
from tests.e2e.stranger_client import PlainClient, Refused

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.timeout(90),
    # Clients of a server that is killed meet closed connections; some are noticed late.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]

LEASE_SECONDS = 2
TASKS = 500


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory, "--lease-seconds", str(LEASE_SECONDS)) as here:
        here.choose_port()
        yield here


def call(number: int) -> tuple[dict[str, object], object]:
    """A task and its answer, which no other has."""
    if number % 10 == 0:
        # A slow one, whose answer is distinct too: sum([n, 1, 1, ...]).
        return {"function": "sum", "args": [[number] + [1] * 2_000]}, number + 2_000
    if number % 10 == 5:
        return {"function": "time:sleep", "args": [0.03]}, None
    return {"function": "math:factorial", "args": [number]}, math.factorial(number)


class Load:
    """Tasks on their way: submitted in several requests, each until it is acknowledged."""

    def __init__(self, place: Place) -> None:
        self.client = PlainClient(place.url, place.token("user"))
        self.expected: dict[str, object] = {}
        """Acknowledged tasks and what they come to."""
        self._thread = threading.Thread(target=self._submit, daemon=True)
        self._thread.start()

    def _submit(self) -> None:
        for start in range(0, TASKS, 50):
            calls = [(ids.to_text(ids.new_id()), *call(n)) for n in range(start, start + 50)]
            items = [{"id": task, **fields} for task, fields, _ in calls]
            while not self._post(items):
                time.sleep(0.05)
            self.expected.update({task: answer for task, _, answer in calls})
            time.sleep(0.1)

    def _post(self, items: list[dict[str, object]]) -> bool:
        try:
            return bool(self.client.ask("POST", "/v1/tasks", items))
        except Refused as error:
            assert error.status == 503, error
        except OSError:
            pass  # it may have been taken: sending it again is safe
        return False

    def has_begun(self, tasks: int) -> None:
        """Wait until so many tasks are taken."""
        until(lambda: len(self.expected) >= tasks)

    def view(self, task: str, wait: float = 0) -> dict[str, Any]:
        return self.client.ask("GET", f"/v1/tasks/{task}?wait={wait}")

    def check(self, *, seconds: float = 40) -> list[dict[str, Any]]:
        """Every task that was taken has its answer; gives what is told of them."""
        self._thread.join(seconds)
        assert len(self.expected) == TASKS
        end = time.monotonic() + seconds
        views = []
        for task, answer in self.expected.items():
            view = self.view(task, wait=max(end - time.monotonic(), 0))
            assert view["state"] == "succeeded", view
            assert view.get("answer") == answer, view
            views.append(view)
        page = self.client.ask("GET", "/v1/tasks?limit=1000")
        assert sorted(each["id"] for each in page["tasks"]) == sorted(self.expected)
        assert self.client.seconds_left() == 0.0
        return views


# ---- kill -9


def test_the_server_is_killed(here: Place) -> None:
    server = here.serve()
    worker = here.worker()
    load = Load(here)

    for tasks in (100, 250):
        load.has_begun(tasks)
        time.sleep(random.uniform(0, 0.1))
        server.kill()
        time.sleep(0.3)
        server = here.serve()

    load.check()
    assert worker.is_alive()


def test_the_worker_is_killed(here: Place) -> None:
    here.serve()
    worker = here.worker()
    load = Load(here)

    for tasks in (100, 250):
        load.has_begun(tasks)
        time.sleep(random.uniform(0, 0.1))
        worker.kill()
        worker = here.worker()

    load.check()


def test_runners_are_killed(here: Place) -> None:
    here.serve()
    worker = here.worker()
    load = Load(here)
    killed = 0

    for tasks in (50, 150, 250, 350):
        load.has_begun(tasks)
        for runner in runners_of(worker)[:1]:
            os.kill(runner, signal.SIGKILL)
            killed += 1

    load.check()
    assert killed >= 3 and worker.is_alive()


def test_a_worker_that_never_comes_back_is_replaced(here: Place) -> None:
    here.serve()
    worker = here.worker()
    load = Load(here)
    load.has_begun(100)

    worker.kill()
    here.worker("another")

    load.check()


# ---- SIGTERM


def submitted(client: PlainClient, count: int, **fields: object) -> list[str]:
    items = [fields for _ in range(count)]
    return list(client.ask("POST", "/v1/tasks", items)["ids"])


def state(client: PlainClient, task: str) -> dict[str, Any]:
    return client.ask("GET", f"/v1/tasks/{task}")


def runs(client: PlainClient, task: str) -> bool:
    view = state(client, task)
    return bool(view["state"] == "running" and view["phase"] == "running")


def test_a_worker_that_is_stopped_ends_what_runs_and_gives_back_the_rest(here: Place) -> None:
    here.serve()
    worker = here.worker(slots=1)
    client = PlainClient(here.url, here.token("user"))
    # Lost tasks of this kind fail for good: those given back must not count as lost.
    (running,) = submitted(client, 1, function="time:sleep", args=[1.5], at_most_once=True)
    until(lambda: runs(client, running))
    waiting = submitted(client, 20, function="math:sqrt", args=[16], at_most_once=True)
    time.sleep(0.2)

    begun = time.monotonic()
    assert worker.stop() == 0
    seconds = time.monotonic() - begun

    assert seconds < 4
    assert state(client, running)["state"] == "succeeded"
    assert {state(client, task)["state"] for task in waiting} == {"queued"}
    here.worker("another")
    assert [client.answer(task) for task in waiting] == [4.0] * 20


def test_a_second_signal_gives_back_what_runs(here: Place) -> None:
    here.serve()
    worker = here.worker(slots=1)
    client = PlainClient(here.url, here.token("user"))
    (running,) = submitted(client, 1, function="time:sleep", args=[60])
    until(lambda: runs(client, running))

    worker.terminate()
    time.sleep(0.3)
    assert worker.is_alive()
    assert worker.stop(5) == 0

    assert state(client, running)["state"] == "queued"


def test_a_server_that_is_stopped_lets_all_go_who_wait(here: Place) -> None:
    server = here.serve()
    client = PlainClient(here.url, here.token("user"))
    stranger = PlainClient(here.url, here.token("worker"))
    tasks = submitted(client, 2, function="time:sleep", args=[60], tags=["x"], python="3.1")
    batch = state(client, tasks[0])["batch"]
    here.worker()
    replies: list[object] = []

    def ask(asker: PlainClient, path: str) -> None:
        replies.append(asker.ask("GET", path))

    waiting = [
        threading.Thread(target=ask, args=each)
        for each in (
            (client, f"/v1/tasks/{tasks[0]}?wait=60"),
            (client, f"/user/request_answer/{tasks[1]}?wait=60"),
            (client, f"/v1/batches/{batch}?wait=60"),
            (stranger, "/worker/request_task?wait=60"),
        )
    ]
    for thread in waiting:
        thread.start()
    time.sleep(0.5)

    begun = time.monotonic()
    assert server.stop(10) == 0
    seconds = time.monotonic() - begun

    for thread in waiting:
        thread.join(5)
    assert seconds < 10 and len(replies) == 4, replies


# ---- one without the other


def test_a_worker_waits_for_its_server_and_finds_it_again(here: Place) -> None:
    worker = here.worker(waits=False)
    time.sleep(1)
    assert worker.is_alive()

    server = here.serve()
    worker.waits_for("joined as")
    with here.client() as client:
        assert client.call("math:factorial", 20) == math.factorial(20)

        assert server.stop() == 0  # while the worker is parked
        time.sleep(0.3)
        here.serve()

        begun = time.monotonic()
        assert client.call("math:sqrt", 9) == 3.0
    assert time.monotonic() - begun < 10
    assert worker.is_alive()
    admin = PlainClient(here.url, here.token("admin"))
    assert len(admin.ask("GET", "/v1/workers")["workers"]) == 1


def slow(path: str, seconds: float) -> str:
    """Leaves a line for each time that it runs."""
    with Path(path).open("a") as file:
        file.write("ran\n")
    time.sleep(seconds)
    return "done"


def big(path: str, seconds: float) -> str:
    return slow(path, seconds) * 100_000


def spooled(place: Place) -> bool:
    reports = place.folder / "worker" / "spool" / "reports.ndjson"
    return reports.exists() and reports.stat().st_size > 0


def start_slow(here: Place, runs: Path, seconds: float) -> tuple[PlainClient, str]:
    name = "somebody"
    with here.client(name) as client:
        task = client.submit(slow, str(runs), seconds).id
    until(runs.exists)
    return PlainClient(here.url, here.token("user", name)), task


def test_an_answer_outlives_its_worker_while_the_server_is_away(here: Place) -> None:
    server = here.serve()
    worker = here.worker()
    runs = here.shared / "runs"
    client, task = start_slow(here, runs, 1.0)

    server.kill()
    until(lambda: spooled(here), 10)
    worker.kill()
    worker = here.worker(waits=False)
    time.sleep(0.5)
    here.serve()

    view = client.ask("GET", f"/v1/tasks/{task}?wait=20")
    assert (view["state"], view["attempt"]) == ("succeeded", 1)
    assert runs.read_text() == "ran\n"
    until(lambda: not spooled(here), 10)
    assert worker.is_alive()


def test_answers_wait_for_their_server_longer_than_a_lease(here: Place) -> None:
    server = here.serve()
    here.worker()
    paths = [here.shared / name for name in ("small", "large")]
    with here.client() as client:
        small = client.submit(slow, str(paths[0]), 0.5)
        large = client.submit(big, str(paths[1]), 0.5)
        until(lambda: all(path.exists() for path in paths))

        server.kill()
        time.sleep(LEASE_SECONDS + 0.5)
        here.serve()

        assert (small.result(timeout=20), small.status().attempt) == ("done", 1)
        assert (large.result(timeout=20), large.status().attempt) == ("done" * 100_000, 1)
    assert {path.read_text() for path in paths} == {"ran\n"}


def test_a_worker_can_be_stopped_while_its_server_is_away(here: Place) -> None:
    server = here.serve()
    worker = here.worker()
    runs = here.shared / "runs"
    client, task = start_slow(here, runs, 0.5)
    server.kill()
    until(lambda: spooled(here), 10)

    worker.terminate()
    time.sleep(0.2)
    worker.terminate()

    assert worker.popen.wait(timeout=10) == 0
    here.serve()
    here.worker()
    view = client.ask("GET", f"/v1/tasks/{task}?wait=20")
    assert (view["state"], view["attempt"]) == ("succeeded", 1)
    assert runs.read_text() == "ran\n"


def test_a_suspended_worker_changes_nothing_when_it_comes_back(here: Place) -> None:
    here.serve()
    sleeper = here.worker("sleeper", slots=1)
    client = PlainClient(here.url, here.token("user"))
    (task,) = submitted(client, 1, function="time:sleep", args=[4])
    until(lambda: runs(client, task))

    suspend(sleeper, signal.SIGSTOP)
    until(lambda: not runs(client, task), 15, "the lease runs out")
    here.worker("another")
    until(lambda: runs(client, task), 15)
    suspend(sleeper, signal.SIGCONT)

    view = client.ask("GET", f"/v1/tasks/{task}?wait=30")
    assert (view["state"], view["attempt"]) == ("succeeded", 2)
    assert sleeper.is_alive()


def suspend(worker: Process, number: int) -> None:
    for pid in (worker.pid, *runners_of(worker)):
        os.kill(pid, number)
