"""Whatever clients and workers of others do, tasks are neither lost nor changed nor held up."""

from __future__ import annotations

import http.client
import json
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.chaos import ChaoticPlainWorker, ChaoticWorker, Ledger
from tests.e2e.processes import Place, figures, place, until
from tests.e2e.stranger_client import PlainClient, Refused
from tests.e2e.test_kill import submitted

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

LEASE_SECONDS = 2.0


@pytest.fixture
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    options = ["--lease-seconds", str(LEASE_SECONDS)]
    options += ["--plain-lease-seconds", str(LEASE_SECONDS)]
    with place(tmp_path_factory, *options) as here:
        here.choose_port()
        here.serve()
        yield here


# ---- chaotic workers


def cancel_some(client: PlainClient, tasks: list[str], seed: int) -> set[str]:
    """Cancel a tenth of them, now and then; gives those for which the server said so."""
    cancelled = set()
    for task in random.Random(seed).sample(tasks, len(tasks) // 10):
        try:
            client.ask("POST", f"/v1/tasks/{task}/cancel")
            cancelled.add(task)
        except Refused as error:
            assert error.status == 409, error
        time.sleep(0.05)
    return cancelled


@pytest.mark.parametrize("seed", [1, 2])
def test_answers_late_repeated_reordered_or_contradicted_change_nothing(
    here: Place, seed: int
) -> None:
    client = PlainClient(here.url, here.token("user"))
    ledger = Ledger()
    tasks = submitted(
        client, 400, function="math:sqrt", args=[16], retries={"max": 100, "backoff": 0.1}
    )
    chaotic = [
        kind(
            PlainClient(here.url, here.token("worker", f"{kind.__name__} {number}")),
            ledger,
            seed=100 * seed + number,
            lease_seconds=LEASE_SECONDS,
        )
        for kind in (ChaoticWorker, ChaoticPlainWorker)
        for number in range(3)
    ]

    cancelled = cancel_some(client, tasks, seed)
    time.sleep(1.0)
    for each in chaotic:
        each.stop()
    here.worker("honest")

    for task in tasks:
        view = client.ask("GET", f"/v1/tasks/{task}?wait=30")
        told = ledger.accepted[task]
        if task in cancelled:
            assert (view["state"], told) == ("cancelled", []), view
        else:
            assert view["state"] == "succeeded", view
            assert [view["answer"]] == (told or [4.0]), "an answer that was taken is the answer"
    kinds = {kind for kind, _ in ledger.statuses}
    assert kinds == {"answer", "repeat", "another", "failure"}
    assert {409, 410} <= {status for _, status in ledger.statuses}, ledger.statuses
    assert ledger.restarts
    assert sum(map(bool, ledger.accepted.values())) > 200
    figures("%d cancelled; what was sent, and its status: %s", len(cancelled), ledger.statuses)


# ---- one owner among others


def test_an_owner_with_one_task_does_not_wait_behind_anothers_twenty_thousand(
    here: Place,
) -> None:
    slots = 2
    here.worker(slots=slots)
    many = PlainClient(here.url, here.token("user", "many"))
    one = PlainClient(here.url, here.token("user", "one"))
    sleep = {"function": "time:sleep", "args": [0.05]}
    for task in submitted(many, 4, **sleep):
        many.answer(task)  # from now on it is known what they take
    flood = many.ask("POST", "/v1/tasks", {"defaults": sleep, "tasks": [{}] * 20_000})["batch"]
    until(lambda: many.ask("GET", f"/v1/batches/{flood}")["counts"].get("succeeded", 0) > 20)

    task = one.submit("math:factorial", 5)

    assert one.answer(task) == 120
    view = one.ask("GET", f"/v1/tasks/{task}")
    path = f"/v1/tasks?batch={flood}&limit=1000&state="
    started = [each["started_at"] for each in many.ask("GET", path + "succeeded")["tasks"]]
    assert 20 < len(started) < 1000
    # Moments in RFC 3339 are in order as texts.
    before = sum(view["submitted_at"] < each < view["started_at"] for each in started)
    assert before <= 2 * slots, "it is among the next few"
    assert view["queue_seconds"] < 1.0
    figures("leased after %.3f s and %d of the others", view["queue_seconds"], before)
    many.ask("POST", f"/v1/batches/{flood}/cancel")


# ---- a server that is stopped under load


class Submitter:
    """A thread that submits on a kept connection until the server is gone."""

    def __init__(self, url: str, token: str) -> None:
        self.taken: dict[str, int] = {}
        """Acknowledged tasks, and the number that each is the factorial of."""
        self.replies: Counter[tuple[int, bool]] = Counter()
        """(Status, whether it says when to try again) -> how often."""
        self._address = urlsplit(url).netloc
        self._headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=20)
        number = 0
        try:
            while True:
                number = number % 500 + 1
                body = json.dumps({"function": "math:factorial", "args": [number]})
                connection.request("POST", "/v1/tasks", body, self._headers)
                reply = connection.getresponse()
                told = json.loads(reply.read())
                self.replies[reply.status, "retry-after" in reply.headers] += 1
                if reply.status == 202:
                    self.taken[told["id"]] = number
        except (OSError, http.client.HTTPException):
            connection.close()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()


def begin_slow_submit(here: Place, token: str) -> tuple[socket.socket, bytes]:
    """A submit whose body is half sent; gives the rest."""
    address = urlsplit(here.url)
    assert address.hostname and address.port
    body = json.dumps({"function": "math:factorial", "args": [5]}).encode()
    connection = socket.create_connection((address.hostname, address.port), timeout=20)
    head = f"POST /v1/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body[:10])
    return connection, body[10:]


def test_a_server_that_is_stopped_under_load_ends_what_it_began_and_loses_nothing(
    here: Place,
) -> None:
    server = here.server
    assert server is not None
    here.worker()
    token = here.token("user")
    client = PlainClient(here.url, token)
    submitters = [Submitter(here.url, token) for _ in range(8)]
    until(lambda: sum(len(each.taken) for each in submitters) > 500)
    connection, rest = begin_slow_submit(here, token)
    time.sleep(0.2)

    begun = time.monotonic()
    server.terminate()
    time.sleep(1.0)
    assert server.is_alive(), "a request is still open"
    connection.sendall(rest)
    reply = connection.recv(65536)
    assert server.popen.wait(10) == 0
    seconds = time.monotonic() - begun
    assert seconds < 10
    connection.close()

    assert reply.startswith(b"HTTP/1.1 202 ")
    late = json.loads(reply.partition(b"\r\n\r\n")[2])["id"]
    for each in submitters:
        each.join()
        assert set(each.replies) <= {(202, False), (503, True)}, each.replies
    here.serve()
    replies = sum((each.replies for each in submitters), Counter())
    figures("stopped in %.1f s; replies (status, Retry-After): %s", seconds, replies)
    expected = {late: 5} | {task: n for each in submitters for task, n in each.taken.items()}
    for task, number in expected.items():
        view: dict[str, Any] = client.ask("GET", f"/v1/tasks/{task}?wait=30")
        assert (view["state"], view["answer"]) == ("succeeded", math.factorial(number))
    assert client.seconds_left() == 0.0
