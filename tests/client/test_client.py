from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from task_server import errors
from task_server.client.client import Client
from task_server.client.functions import PYTHON
from task_server.client.payloads import INLINE_BYTES
from task_server.client.requests import Reply, Request
from task_server.protocol import ids
from task_server.protocol.tasks import Quantiles
from tests.client.scripted import (
    ESTIMATE,
    ID,
    Handler,
    ScriptedTransport,
    problem,
    reply,
    submitted,
    succeeded,
    view,
)

Scripted = tuple[Client, ScriptedTransport]


def scripted(handler: Handler) -> Scripted:
    """A client of `handler` that does not really pause."""
    transport = ScriptedTransport(handler)
    client = Client(transport=transport)
    now = [0.0]
    client.session.clock = lambda: now[0]
    client.session.sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    return client, transport


def answering(answer: object) -> Handler:
    return lambda request: succeeded(answer)


def failing(error: dict[str, Any]) -> Handler:
    return lambda request: reply(200, view(state="failed", error=error))


def add(x: int, y: int) -> int:
    return x + y


def test_a_call_that_ends_in_time_is_one_request() -> None:
    client, transport = scripted(answering(120))

    assert client.call("math:factorial", 5) == 120

    (request,) = transport.requests
    body = json.loads(request.body or b"")
    assert request.path == "/v1/tasks?wait=30.0"
    assert ids.from_text(body.pop("id")) is not None
    assert body == {"function": "math:factorial", "args": [5], "result_encoding": "auto"}


def test_a_call_that_takes_longer_waits_at_the_server() -> None:
    replies = [submitted(), reply(200, view(state="running")), succeeded(7)]
    client, transport = scripted(lambda request: replies.pop(0))

    assert client.call("m:f") == 7

    assert [request.path for request in transport.requests] == [
        "/v1/tasks?wait=30.0",
        f"/v1/tasks/{ID}?wait=30.0",
        f"/v1/tasks/{ID}?wait=30.0",
    ]


def test_package_and_version_are_reserved_for_functions_by_name_only() -> None:
    client, transport = scripted(answering(None))

    client.call("m:f", package="p", version="1.0", other=2)
    client.call(add, package="p", version="1.0")

    by_name, by_value = transport.bodies("POST", "/v1/tasks")
    assert by_name["package"] == "p" and by_name["version"] == "1.0"
    assert by_name["kwargs"] == {"other": 2}
    assert "package" not in by_value
    assert by_value["kwargs"] == {"package": "p", "version": "1.0"}


def test_a_handle_reserves_nothing() -> None:
    client, transport = scripted(answering(None))
    handle = client.function("m:f", package="p")

    handle.call(package="mine", self=1, function=2)

    (body,) = transport.bodies("POST", "/v1/tasks")
    assert body["package"] == "p"
    assert body["kwargs"] == {"package": "mine", "self": 1, "function": 2}


def test_a_callable_travels_by_value() -> None:
    client, transport = scripted(answering(3))

    assert client.call(add, 1, y=2) == 3

    (body,) = transport.bodies("POST", "/v1/tasks")
    function = body["function"]
    assert function["python"] == PYTHON and function["name"].endswith(":add")
    assert pickle.loads(base64.b64decode(function["pickle"]))(1, 2) == 3


def test_a_large_function_is_stored_first_and_once() -> None:
    table = bytes(INLINE_BYTES)

    def look(place: int) -> int:
        return table[place]

    def handle(request: Request) -> Reply:
        return reply(201, {}) if request.method == "PUT" else succeeded(0)

    client, transport = scripted(handle)

    for _ in range(2):
        client.call(look, 1)

    puts = [request for request in transport.requests if request.method == "PUT"]
    bodies = transport.bodies("POST", "/v1/tasks")
    assert [request.method for request in transport.requests] == ["PUT", "POST", "POST"]
    assert puts[0].path == "/v1/blobs/" + bodies[0]["function"]["pickle"]


def test_options_become_fields_of_the_task() -> None:
    client, transport = scripted(answering(None))
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    chosen = client.options(timeout=5, retries=2, tags=("a", "b"), package=("x", "y"))

    chosen.options(timeout=None, priority=3, start_by=moment).call("m:f", timeout="mine")
    client.call("m:f")

    first, second = transport.bodies("POST", "/v1/tasks")
    del first["id"], second["id"]
    assert first == {
        "function": "m:f",
        "args": [],
        "kwargs": {"timeout": "mine"},
        "result_encoding": "auto",
        "retries": {"max": 2},
        "tags": ["a", "b"],
        "package": ["x", "y"],
        "priority": 3,
        "start_by": "2030-01-01T00:00:00Z",
    }
    assert second == {"function": "m:f", "args": [], "result_encoding": "auto"}


def test_an_option_that_does_not_exist_is_refused() -> None:
    client, _ = scripted(answering(None))

    with pytest.raises(TypeError, match="unknown options: prioirty"):
        client.options(prioirty=3)  # type: ignore[call-arg]


def test_code_in_arguments_asks_for_this_python_unless_one_was_chosen() -> None:
    client, transport = scripted(answering(None))

    client.call("functools:reduce", lambda a, b: a + b, [1, 2])
    client.options(python="3.12").call("functools:reduce", lambda a, b: a + b, [1, 2])

    first, second = transport.bodies("POST", "/v1/tasks")
    assert first["python"] == PYTHON and second["python"] == "3.12"


def test_a_lost_connection_is_tried_again_with_the_same_id() -> None:
    outcomes: list[Reply | Exception] = [
        errors.ServerUnreachable("cut"),
        errors.ServerUnreachable("cut"),
        succeeded(1),
    ]
    client, transport = scripted(in_turn(outcomes))

    assert client.call("m:f") == 1

    assert len({request.body for request in transport.requests}) == 1
    assert len(transport.requests) == 3


def in_turn(outcomes: list[Any]) -> Callable[[Request], Any]:
    def handle(request: Request) -> Any:
        outcome = outcomes.pop(0) if len(outcomes) > 1 else outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return handle


def test_a_server_that_stays_away_is_reported_after_some_seconds() -> None:
    client, transport = scripted(in_turn([errors.ServerUnreachable("cut")]))

    with pytest.raises(errors.ServerUnreachable):
        client.submit("m:f")

    assert 8 < client.session.clock() < 12
    assert len(transport.requests) < 40


def test_where_nobody_ever_listened_the_error_comes_at_once() -> None:
    refused = errors.ServerUnreachable("no server")
    refused.__cause__ = ConnectionRefusedError()
    client, transport = scripted(in_turn([refused]))

    with pytest.raises(errors.ServerUnreachable):
        client.call("m:f")

    assert len(transport.requests) == 1


def test_a_busy_server_is_given_the_time_that_it_asks_for() -> None:
    busy = problem(429, "too_many_requests", **{"retry-after": "3"})
    client, _ = scripted(in_turn([busy, succeeded(1)]))

    assert client.call("m:f") == 1

    assert client.session.clock() >= 3


def test_a_refusal_is_not_tried_again() -> None:
    client, transport = scripted(in_turn([problem(422, "invalid", "package: no such name")]))

    with pytest.raises(errors.Invalid, match="no such name"):
        client.submit("m:f")

    assert len(transport.requests) == 1


def test_a_result_that_is_late_leaves_the_task_alone() -> None:
    client, transport = scripted(lambda request: reply(200, view(state="running")))
    future = client.future(ID)

    with pytest.raises(TimeoutError) as caught:
        future.result(timeout=0)

    assert isinstance(caught.value, errors.NotFinished)
    assert future.state == "running" and future.running() and not future.done()
    assert {request.method for request in transport.requests} == {"GET"}


def test_a_pickled_answer_is_itself_again() -> None:
    data = base64.b64encode(pickle.dumps({1, 2})).decode()
    client, _ = scripted(lambda request: reply(200, view(encoding="pickle", answer=data)))

    assert client.call("m:f") == {1, 2}


def test_a_large_answer_is_fetched() -> None:
    def handle(request: Request) -> Reply:
        if request.path.startswith("/v1/blobs/"):
            return Reply(200, {}, pickle.dumps((1, 2)))
        return reply(200, view(encoding="pickle", blob="sha256:ab"))

    client, transport = scripted(handle)

    assert client.call("m:f") == (1, 2)
    assert transport.requests[-1].path == "/v1/blobs/sha256:ab"


def remote(error: Exception, **fields: Any) -> dict[str, Any]:
    data = base64.b64encode(pickle.dumps(error)).decode()
    return {
        "kind": "exception",
        "type": type(error).__name__,
        "message": str(error),
        "traceback": 'Traceback (most recent call last):\n  File "f.py"\nKeyError: 7\n',
        "pickle": data,
        **fields,
    }


def test_a_remote_exception_is_raised_as_itself_with_its_traceback() -> None:
    client, _ = scripted(failing(remote(KeyError(7))))

    with pytest.raises(KeyError) as caught:
        client.call("m:f")

    assert caught.value.args == (7,)
    assert 'File "f.py"' in str(caught.value.__cause__)


def test_an_exception_that_cannot_be_raised_here_is_a_remote_error() -> None:
    error = remote(KeyError(7), type="mod.Odd", message="so odd", pickle=None)
    client, _ = scripted(failing(error))

    with pytest.raises(errors.RemoteError, match=r"mod\.Odd: so odd") as caught:
        client.call("m:f")

    assert caught.value.kind == "exception" and caught.value.type == "mod.Odd"
    assert caught.value.task == ID and 'File "f.py"' in str(caught.value.__cause__)


@pytest.mark.parametrize("data", ["!", base64.b64encode(b"cno.such\nx\n.").decode()])
def test_an_exception_that_does_not_unpickle_is_a_remote_error(data: str) -> None:
    client, _ = scripted(failing(remote(KeyError(7), pickle=data)))

    with pytest.raises(errors.RemoteError, match="KeyError"):
        client.call("m:f")


def test_a_remote_exit_does_not_end_the_caller() -> None:
    data = base64.b64encode(pickle.dumps(SystemExit(1))).decode()
    client, _ = scripted(failing(remote(KeyError(7), pickle=data, type="SystemExit")))

    with pytest.raises(errors.RemoteError, match="SystemExit"):
        client.call("m:f")


@pytest.mark.parametrize("kind", ["timeout", "out_of_memory", "environment", "lost", "import"])
def test_other_ends_are_told_by_their_kind(kind: str) -> None:
    error = {"kind": kind, "type": "", "message": "details", "traceback": ""}
    client, _ = scripted(failing(error))

    with pytest.raises(errors.TaskFailed, match=f"{kind}.*details") as caught:
        client.call("m:f")

    assert caught.value.kind == kind and not isinstance(caught.value, errors.RemoteError)


def test_a_cancelled_task_raises_the_standard_error_too() -> None:
    client, _ = scripted(lambda request: reply(200, view(state="cancelled")))
    future = client.future(ID)

    with pytest.raises(concurrent.futures.CancelledError) as caught:
        future.result()

    assert isinstance(caught.value, errors.TaskCancelled) and future.cancelled()


@pytest.mark.parametrize("look", ["result", "exception"])
def test_a_task_that_was_cancelled_for_another_says_for_which(look: str) -> None:
    error = {
        "kind": "lost",
        "type": "DependencyEnded",
        "message": "task 7, which this one waited for, failed",
        "traceback": "",
    }
    client, _ = scripted(lambda request: reply(200, view(state="cancelled", error=error)))
    future = client.future(ID)

    with pytest.raises(errors.TaskCancelled, match="was cancelled: DependencyEnded: task 7, which"):
        getattr(future, look)()


def test_an_expired_task_says_so() -> None:
    client, _ = scripted(lambda request: reply(200, view(state="expired")))

    with pytest.raises(errors.TaskExpired):
        client.future(ID).result()


def test_cancel_tells_whether_the_task_is_cancelled() -> None:
    for state, status in (("cancelled", 200), ("succeeded", 409), ("succeeded", 200)):

        def handle(request: Request, state: str = state, status: int = status) -> Reply:
            if request.method == "POST":
                return problem(409, "conflict") if status == 409 else reply(200, {})
            return reply(200, view(state=state, encoding="json", answer=1))

        client, _ = scripted(handle)

        assert client.cancel(ID) is (state == "cancelled")


def test_futures_work_with_the_standard_library() -> None:
    def handle(request: Request) -> Reply:
        return submitted(json.loads(request.body)["id"]) if request.body else done(request)

    def done(request: Request) -> Reply:
        task = request.path.split("/")[3].partition("?")[0]
        return succeeded(task, task)

    client, _ = scripted(handle)
    futures = [client.submit("m:f", n) for n in range(40)]

    finished = list(concurrent.futures.as_completed(futures, timeout=10))
    called: list[Any] = []
    futures[0].add_done_callback(called.append)

    assert {future.id for future in futures} == {future.result() for future in finished}
    assert concurrent.futures.wait(futures, timeout=10).not_done == set()
    assert called == [futures[0]]


def test_a_callback_is_called_without_anybody_asking() -> None:
    client, _ = scripted(answering(5))
    called: concurrent.futures.Future[Any] = concurrent.futures.Future()

    client.future(ID).add_done_callback(lambda future: called.set_result(future.result()))

    assert called.result(timeout=10) == 5


async def test_a_future_can_be_awaited() -> None:
    client, _ = scripted(answering(5))

    assert await asyncio.wait_for(client.future(ID), 10) == 5


def test_a_future_carries_the_estimate_of_its_submit() -> None:
    client, _ = scripted(lambda request: submitted())

    estimate = client.submit("m:f").estimate

    assert estimate is not None
    assert (estimate.p10, estimate.p50, estimate.p90, estimate.p99) == (0.001, 0.002, 0.003, 0.005)
    assert estimate.known and estimate.basis is not None and estimate.basis.calls == 7


def test_an_estimate_stores_nothing() -> None:
    client, transport = scripted(lambda request: reply(200, ESTIMATE))

    assert client.estimate("m:f", 3, package="p").p50 == 0.002

    (request,) = transport.requests
    assert request.path == "/v1/estimates"
    assert json.loads(request.body or b"") == {
        "function": "m:f",
        "package": "p",
        "args": [3],
        "result_encoding": "auto",
    }


def test_an_estimate_of_many_is_a_sum_with_an_eta() -> None:
    total = {"core_seconds": {"p10": 1, "p50": 2, "p90": 3}, "unknown_tasks": 2}
    client, transport = scripted(lambda request: reply(200, {"total": total, "eta": None}))

    estimate = client.estimate_map("m:f", range(3))

    assert estimate.core_seconds.p50 == 2 and not estimate.known and estimate.unknown_tasks == 2
    assert estimate.p99 is None and estimate.eta is None
    (body,) = transport.bodies("POST", "/v1/estimates")
    assert body["tasks"] == [{"args": [0]}, {"args": [1]}, {"args": [2]}]


def test_an_estimate_of_a_long_generator_is_asked_for_in_portions() -> None:
    core_seconds = {"p10": 40.0, "p50": 80.0, "p90": 120.0}
    eta = {"p10": 10.0, "p50": 20.0, "p90": 30.0}
    told = {
        "calls": ESTIMATE["calls"],
        "total": {"core_seconds": core_seconds, "unknown_tasks": 1},
        "eta": eta,
        "memory_bytes": 7,
        "eta_by_slots": [{"slots": 4, "eta": eta}, {"slots": 8, "eta": eta}],
    }
    client, transport = scripted(lambda request: reply(200, told))

    estimate = client.estimate_map("m:f", iter(range(45_000)))

    sizes = [len(body["tasks"]) for body in transport.bodies("POST", "/v1/estimates")]
    assert sizes == [20_000, 20_000, 5_000]
    assert (estimate.p50, estimate.unknown_tasks, estimate.memory_bytes) == (240.0, 3, 7)
    assert estimate.eta is not None and estimate.eta.p50 == 20.0 + 160.0 / 4
    assert [each.eta.p50 for each in estimate.eta_by_slots] == [60.0, 40.0]
    assert estimate.calls == []


def test_put_stores_a_value_once() -> None:
    client, transport = scripted(lambda request: reply(201, {}))

    first, second = client.put(b"data"), client.put(b"data")

    assert first.digest == second.digest and first.form == "bytes" and first.size == 4
    assert [request.method for request in transport.requests] == ["PUT"]


def test_put_of_a_path_stores_the_file_unless_it_is_there(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(b"content")
    there = set[str]()

    def handle(request: Request) -> Reply:
        if request.method == "PUT":
            there.add(request.path)
        return Reply(200 if request.path in there else 404, {}, b"")

    client, transport = scripted(handle)
    other, _ = scripted(transport._handler)

    assert client.put(file).form == "path"
    assert other.put(file, form="bytes").form == "bytes"

    assert [request.method for request in transport.requests] == ["HEAD", "PUT"]
    assert transport.requests[1].body == b"content"


def test_a_client_is_never_pickled() -> None:
    client, _ = scripted(answering(None))

    with pytest.raises(TypeError, match="holds a token"):
        pickle.dumps(client)


def test_nothing_of_ours_is_imported_before_it_is_used() -> None:
    import subprocess
    import sys

    code = "import sys, task_server; print([n for n in sys.modules if n.startswith('task_server')])"
    place = str(Path(errors.__file__).parent.parent)
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": place},
    )

    assert ran.stdout.strip() == "['task_server']"


def test_public_names_can_be_imported() -> None:
    import task_server

    for name in set(task_server.__all__) - {"__version__"}:
        assert getattr(task_server, name) is not None
    with pytest.raises(AttributeError):
        task_server.nothing  # noqa: B018  (the look itself is tested)


def test_a_name_in_ones_own_code_is_refused_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_my_own.py").write_text("def f(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    client, transport = scripted(lambda request: succeeded(7))

    for refused in (lambda: client.call("of_my_own:f"), lambda: client.map("of_my_own:f", [1])):
        with pytest.raises(errors.TaskServerError, match="code of your own"):
            refused()

    assert transport.requests == []
    assert client.call("of_my_own:f", package="of-my-own") == 7
    assert client.options(requirements="of-my-own").call("of_my_own:f") == 7


def explaining(state: str, span: object, **fields: Any) -> Any:
    told: dict[str, Any] = {"id": ID, "state": state, "phase": None, "summary": ""}
    told["reasons"] = []

    def handle(request: Request) -> Reply:
        if request.method == "POST":
            return submitted()
        if request.path.endswith("/explain"):
            return reply(200, {**told, "expected_seconds": span})
        return reply(200, view(state=state, **fields))

    return handle


@pytest.mark.parametrize(
    ("state", "span", "expected"),
    [
        ("queued", {"low": 4.0, "high": 9.0}, (4.5, 7.0, 11.0)),  # behind it p50 1 s, p90 2 s
        ("running", {"low": 4.0, "high": 9.0}, (4.0, 6.0, 9.0)),
        ("queued", None, None),
        ("succeeded", None, (0.0, 0.0, 0.0)),
    ],
)
def test_a_future_tells_when_it_ends(state: str, span: object, expected: object) -> None:
    client, _ = scripted(explaining(state, span, encoding="json", answer=1))

    eta = client.submit("m:f").eta()

    assert eta == (None if expected is None else Quantiles(*expected))  # type: ignore[misc]


def test_a_future_tells_how_far_it_is() -> None:
    span = {"low": 4.0, "high": 9.0}
    now = datetime.now(UTC).isoformat()
    long_ago = "2001-01-01T00:00:00Z"
    states = [
        explaining("queued", span),
        explaining("running", span, started_at=now),
        explaining("running", span, started_at=long_ago),
        explaining("succeeded", None, encoding="json", answer=1),
    ]

    waiting, begun, overdue, done = (
        scripted(handle)[0].submit("m:f").progress for handle in states
    )

    assert waiting == 0.0 and begun < 0.5 and overdue == 0.99 and done == 1.0
