"""Programs that know only the plain API, with each other and with ours."""

from __future__ import annotations

import math
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server import errors
from task_server.protocol import ids
from tests.e2e.processes import Place, Process, clean_environ, place, until
from tests.e2e.stranger_client import Failed, PlainClient, Refused
from tests.e2e.stranger_worker import PlainWorker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(tmp_path_factory) as here:
        here.serve()
        yield here


@pytest.fixture
def client(server: Place) -> PlainClient:
    """A user's client; each test is another owner."""
    return PlainClient(server.url, server.token("user"))


@pytest.fixture
def worker(server: Place) -> PlainWorker:
    """A worker in the test's hands."""
    return PlainWorker(server.url, server.token("worker"))


@pytest.fixture
def their_worker(server: Place) -> Iterator[Process]:
    environ = {"TASKS_URL": server.url, "TASKS_TOKEN": server.token("worker")}
    process = server.run([sys.executable, str(HERE / "stranger_worker.py")], "stranger", environ)
    yield process
    process.kill()


@pytest.fixture
def our_worker(server: Place) -> Iterator[Process]:
    process = server.worker()
    yield process
    assert process.stop() == 0


def status_of(client: PlainClient, method: str, path: str, body: object = None) -> int:
    """The status that it is refused with; 200 when it is not."""
    try:
        client.ask(method, path, body)
    except Refused as error:
        if not path.startswith("/v1/"):
            assert error.reply["sucsess"] is error.reply["success"] is False
            assert error.reply["error"]["code"] and error.reply["error"]["message"]
        return error.status
    return 200


# ---- who works with whom


def test_strangers_work_with_each_other(client: PlainClient, their_worker: Process) -> None:
    assert client.call("factorial", 20, module="math") == math.factorial(20)
    assert client.call("math:factorial", 200) == math.factorial(200)
    assert client.call("sorted", [3, 1, 2], kwargs={"reverse": True}) == [3, 2, 1]
    assert client.call("str.upper", "grüße \u0000") == "GRÜSSE \u0000"

    with pytest.raises(Failed, match="ZeroDivisionError: division by zero"):
        client.call("operator:truediv", 1, 0)


def test_the_strangers_client_works_with_our_worker(
    client: PlainClient, our_worker: Process
) -> None:
    assert client.call("factorial", 20, module="math") == math.factorial(20)
    assert client.call("math.factorial", 30) == math.factorial(30)
    assert client.call("str.upper", "grüße \u0000") == "GRÜSSE \u0000"
    assert client.call("dict", kwargs={"b": [1.5, None], "a": True}) == {
        "b": [1.5, None],
        "a": True,
    }
    assert client.call("operator:mul", "x", 500_000) == "x" * 500_000  # an answer in a blob

    task = client.submit("statistics:mean", [])
    with pytest.raises(Failed, match="StatisticsError: mean requires at least one data point"):
        client.answer(task)
    error = client.ask("GET", f"/user/request_answer/{task}")["error"]
    assert "Traceback" in error["traceback"] and "statistics.py" in error["traceback"]


def test_our_client_works_with_the_strangers_worker(server: Place, their_worker: Process) -> None:
    with server.client().options(result_encoding="json") as client:
        assert client.call("math:factorial", 20) == math.factorial(20)
        assert list(client.map("math:factorial", range(50))) == list(map(math.factorial, range(50)))

        future = client.submit("operator:truediv", 1, 0)
        with pytest.raises(
            errors.RemoteError, match="ZeroDivisionError: division by zero"
        ) as caught:
            future.result(timeout=30)
        assert "Traceback" in caught.value.traceback


def test_a_program_of_one_line_calls(server: Place, their_worker: Process) -> None:
    environ = {"TASKS_URL": server.url, "TASKS_TOKEN": server.token("user")}
    command = [sys.executable, str(HERE / "stranger_client.py"), "math:factorial", "20"]

    done = subprocess.run(
        command, env=clean_environ() | environ, capture_output=True, text=True, timeout=30
    )

    assert done.stdout == f"{math.factorial(20)}\n", done.stderr


def test_a_stranger_waits_in_its_submit(client: PlainClient, their_worker: Process) -> None:
    path = "/user/submit_task?wait=30"

    done = client.ask("POST", path, {"function": "math:factorial", "args": [20]})
    failed = client.ask("POST", path, {"function": "math:factorial", "args": [-1]})

    assert (done["sucsess"], done["answer"]) == (True, math.factorial(20))
    assert (failed["sucsess"], failed["state"]) == (True, "failed")
    assert failed["error"]["type"] == "ValueError"


# ---- tasks as a worker gets them


def test_a_task_always_has_the_six_keys(client: PlainClient, worker: PlainWorker) -> None:
    first = client.submit("pow", 2, 3)
    second = client.submit("hypot", module="math", kwargs={"x": 1})

    given = [worker.request_task(), worker.request_task()]

    assert [each and each["id"] for each in given] == [first, second]
    assert [each and each["task"] for each in given] == [
        {"package": None, "version": None, "module": None, "function": "pow"}
        | {"args": [2, 3], "kwargs": {}},
        {"package": None, "version": None, "module": "math", "function": "hypot"}
        | {"args": [], "kwargs": {"x": 1}},
    ]
    for task in (first, second):
        assert worker.submit_answer(task, answer=None) == 200
        assert client.answer(task) is None


def test_a_worker_that_waits_gets_the_task_at_once(
    client: PlainClient, worker: PlainWorker
) -> None:
    given: list[tuple[float, object]] = []

    def wait() -> None:
        given.append((time.monotonic(), worker.request_task(wait=20)))
        given.append((time.monotonic(), None))

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    begun = time.monotonic()
    task = client.submit("pow", 2, 5)
    thread.join(20)

    assert given[-1][0] - begun < 1.0
    assert isinstance(given[0][1], dict) and given[0][1]["id"] == task
    assert worker.submit_answer(task, answer=32) == 200


def test_a_worker_without_a_task_is_told_so(worker: PlainWorker) -> None:
    status, reply = worker.ask("GET", "/worker/request_task?wait=0.2")

    assert status == 200 and reply["sucsess"] is reply["success"] is False and reply["reason"]


# ---- answers and the ways they fail


def test_an_exception_comes_back(client: PlainClient, worker: PlainWorker) -> None:
    as_text, as_object = client.submit("pow", 1, 1), client.submit("pow", 2, 2)
    told = {"type": "KeyError", "message": "'x'", "traceback": "Traceback: line 7"}
    for outcome in ({"exception": "it broke"}, {"sucsess": False, "exception": told}):
        found = worker.request_task()
        assert found is not None and worker.submit_answer(found["id"], **outcome) == 200

    first = client.ask("GET", f"/user/request_answer/{as_text}")
    second = client.ask("GET", f"/user/request_answer/{as_object}")

    assert (first["sucsess"], first["state"]) == (False, "failed")
    assert first["error"]["message"] == "it broke"
    assert second["error"] == told


def test_an_open_task_says_how_far_it_is(client: PlainClient, worker: PlainWorker) -> None:
    task = client.submit("pow", 2, 2)
    queued = client.ask("GET", f"/user/request_answer/{task}")
    worker.request_task()
    running = client.ask("GET", f"/user/request_answer/{task}?wait=0.1")

    assert (queued["sucsess"], queued["state"]) == (False, "queued") and queued["reason"]
    assert (running["sucsess"], running["state"]) == (False, "running") and running["reason"]
    assert worker.submit_answer(task, answer=4) == 200


def test_one_answer_is_taken_and_no_other(client: PlainClient, worker: PlainWorker) -> None:
    task = client.submit("pow", 2, 2)
    worker.request_task()

    statuses = [worker.submit_answer(task, answer=answer) for answer in (4, 4, 5, 4)]
    late_failure = worker.submit_answer(task, sucsess=False, exception="no")

    assert statuses == [200, 200, 409, 200] and late_failure == 409
    assert client.answer(task) == 4


def test_an_answer_for_nothing_is_refused(
    client: PlainClient, worker: PlainWorker, server: Place
) -> None:
    task = client.submit("pow", 2, 2)
    worker.request_task()
    other = PlainWorker(server.url, server.token("worker"))
    unknown = ids.to_text(ids.new_id())

    assert worker.submit_answer(unknown, answer=1) == 404
    assert worker.submit_answer("nonsense", answer=1) == 404
    assert other.submit_answer(task, answer=1) == 404
    assert worker.submit_answer(task) == 422
    assert worker.submit_answer(task, answer=4) == 200


def test_a_cancelled_task_is_gone_for_its_worker(client: PlainClient, worker: PlainWorker) -> None:
    task = client.submit("pow", 2, 2)
    worker.request_task()

    cancelled = client.ask("POST", f"/v1/tasks/{task}/cancel")
    reply = client.ask("GET", f"/user/request_answer/{task}")

    assert cancelled["state"] == "cancelled"
    assert worker.submit_answer(task, answer=4) == 410
    assert (reply["sucsess"], reply["state"]) == (False, "cancelled") and reply["error"]["message"]


def test_a_task_whose_worker_is_lost_goes_to_another(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with place(tmp_path_factory, "--plain-lease-seconds", "1", "--auth", "none") as here:
        here.serve()
        client, worker = PlainClient(here.url), PlainWorker(here.url)
        task = client.submit("pow", 2, 2)
        first = worker.request_task()

        again = worker.request_task(wait=20)  # the lease and a pause pass first

        assert first is not None and again is not None
        assert first["id"] == again["id"] == task
        assert worker.submit_answer(task, answer=4) == 200


# ---- who may see what


def test_another_users_task_is_absent(client: PlainClient, server: Place) -> None:
    task = client.submit("pow", 2, 2)
    other = PlainClient(server.url, server.token("user"))
    replies = []
    for identifier in (task, ids.to_text(ids.new_id())):
        with pytest.raises(Refused) as caught:
            other.ask("GET", f"/user/request_answer/{identifier}")
        replies.append((caught.value.status, caught.value.reply))

    assert replies[0] == replies[1] and replies[0][0] == 404
    assert status_of(other, "POST", f"/v1/tasks/{task}/cancel") == 404
    client.ask("POST", f"/v1/tasks/{task}/cancel")


def test_an_old_id_is_gone(client: PlainClient) -> None:
    old = ids.to_text(ids.new_id(at=time.time() - 40 * 86400))

    assert status_of(client, "GET", f"/user/request_answer/{old}") == 410


def test_each_kind_of_token_has_its_routes(server: Place) -> None:
    routes = [
        ("POST", "/user/submit_task", {"function": "pow", "args": [1, 1]}),
        ("GET", "/user/estimate_time_left", None),
        ("GET", "/worker/request_task", None),
        ("POST", "/worker/submit_answer", {"id": ids.to_text(ids.new_id()), "answer": 1}),
    ]
    tokens = [
        server.token("user"),
        server.token("worker"),
        server.token("admin"),
        "tsu_wrong",
        None,
    ]

    found = [
        [status_of(PlainClient(server.url, each), *route) for route in routes] for each in tokens
    ]

    assert found == [
        [200, 200, 403, 403],
        [403, 403, 200, 404],
        [200, 200, 200, 404],
        [401] * 4,
        [401] * 4,
    ]
    everything = PlainWorker(server.url, tokens[2])
    while everything.request_task(wait=0):  # leave the queue empty
        pass


# ---- time left


def test_time_left_grows_with_the_work_and_ends_at_zero(
    client: PlainClient, their_worker: Process
) -> None:
    idle = client.ask("GET", "/user/estimate_time_left")
    client.call("time:sleep", 0.2)
    tasks = [client.submit("time:sleep", 0.2) for _ in range(10)]

    busy = client.ask("GET", "/user/estimate_time_left")

    assert idle["sucsess"] is True and idle["time"] == 0.0
    assert 0.2 <= busy["time"] <= 10 and busy["low"] <= busy["time"] <= busy["high"]
    for task in tasks:
        client.answer(task)
    until(lambda: client.seconds_left() == 0.0, 5)


def test_others_tasks_are_not_in_ones_time_left(client: PlainClient, server: Place) -> None:
    other = PlainClient(server.url, server.token("user"))
    task = other.submit("time:sleep", 100)

    assert client.seconds_left() == 0.0 and other.seconds_left() > 0.0
    other.ask("POST", f"/v1/tasks/{task}/cancel")


# ---- over a real socket


def sent(server: Place, request: str) -> bytes:
    """What comes back for these bytes, and that it comes soon."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(request.encode("latin-1"))
        reply = b""
        while b"}" not in reply and (piece := connection.recv(65536)):
            reply += piece
    return reply


def test_a_body_over_the_limit_is_refused_before_it_is_sent(server: Place) -> None:
    token = server.token("user")
    head = "POST /user/submit_task HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"

    reply = sent(server, f"{head}Content-Length: {1 << 40}\r\n\r\n")

    assert reply.startswith(b"HTTP/1.1 413 ") and b'"sucsess":false' in reply


def test_a_page_of_another_site_gets_no_answer(server: Place, client: PlainClient) -> None:
    foreign = sent(server, "GET /livez HTTP/1.1\r\nHost: evil.example\r\n\r\n")
    own = sent(server, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")

    assert foreign.startswith(b"HTTP/1.1 421 ") and own.startswith(b"HTTP/1.1 200 ")
    assert client.seconds_left() == 0.0
