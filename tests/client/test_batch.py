from __future__ import annotations

import json
from typing import Any

import pytest

from task_server import errors
from task_server.client.client import Client
from task_server.client.requests import Reply, Request
from tests.client.scripted import ESTIMATE, ScriptedTransport, problem, reply
from tests.client.test_client import scripted

Pieces = list[bytes | Exception]


def line(index: int, answer: object = None, **fields: Any) -> bytes:
    told = {
        "index": index,
        "id": f"task-{index}",
        "state": "succeeded",
        "encoding": "json",
        "answer": index * 10 if answer is None else answer,
        "cursor": f"c{index}",
        **fields,
    }
    return json.dumps(told).encode() + b"\n"


def accepted(request: Request) -> Reply:
    tasks = json.loads(request.body or b"")["tasks"]
    told = {
        "batch": "b",
        "ids": [task["id"] for task in tasks],
        "duplicate": False,
        "estimate": {**ESTIMATE, "calls": []},
    }
    return reply(202, told)


def batch_server(streams: list[Pieces | Reply], views: list[Reply] | None = None) -> Any:
    def handle(request: Request) -> Any:
        if "/answers" in request.path:
            return streams.pop(0)
        if request.path.startswith("/v1/tasks"):
            return accepted(request)
        if request.method == "GET" and views:
            return views.pop(0)
        return reply(200, {})

    return handle


def mapped(*streams: Pieces | Reply, count: int = 3) -> tuple[Any, Client, ScriptedTransport]:
    client, transport = scripted(batch_server(list(streams)))
    return client.map("m:f", range(count)), client, transport


def view(done: int, total: int = 3, open: bool = False) -> Reply:
    told = {
        "id": "b",
        "name": None,
        "open": open,
        "total": total,
        "expected": None,
        "counts": {"succeeded": done, "queued": total - done},
        "progress": done / total,
        "core_seconds": {"p10": 0.0, "p50": 0.0, "p90": 0.0},
        "eta": None,
    }
    return reply(200, told)


def test_a_small_map_is_one_request_of_a_closed_batch() -> None:
    batch, _, transport = mapped()

    (body,) = transport.bodies("POST", "/v1/tasks")
    assert len(batch) == 3 and body["batch"] == {"id": batch.id}
    assert body["defaults"] == {"function": "m:f", "result_encoding": "auto"}
    assert [task["args"] for task in body["tasks"]] == [[0], [1], [2]]
    assert len(transport.requests) == 1


def test_a_large_map_fills_an_open_batch() -> None:
    batch, _, transport = mapped(count=2500)

    opened = transport.bodies("POST", "/v1/batches")[0]
    bodies = transport.bodies("POST", "/v1/tasks")
    paths = [request.path for request in transport.requests]
    assert opened == {"id": batch.id}
    assert [len(body["tasks"]) for body in bodies] == [1000, 1000, 500]
    assert paths == [
        "/v1/batches",
        *[f"/v1/tasks?batch={batch.id}"] * 3,
        f"/v1/batches/{batch.id}/close",
    ]
    assert len({task["id"] for body in bodies for task in body["tasks"]}) == 2500
    assert batch.estimate.p50 == pytest.approx(0.006)


def test_large_arguments_make_smaller_requests() -> None:
    client, transport = scripted(batch_server([]))

    client.map("m:f", ["x" * 1_500_000] * 5)

    assert [len(body["tasks"]) for body in transport.bodies("POST", "/v1/tasks")] == [2, 2, 1]


def test_map_stops_at_the_shortest_iterable_as_the_builtin_does() -> None:
    client, transport = scripted(batch_server([]))

    batch = client.map("m:f", range(5), "ab", name="mine", order="submit")

    (body,) = transport.bodies("POST", "/v1/tasks")
    assert [task["args"] for task in body["tasks"]] == [[0, "a"], [1, "b"]]
    assert body["batch"] == {"id": batch.id, "name": "mine", "order": "submit"}
    with pytest.raises(TypeError):
        client.map("m:f")


def test_an_empty_map_is_an_empty_batch() -> None:
    batch, _, transport = mapped(count=0)

    assert list(batch) == [] and len(batch) == 0
    assert [request.path for request in transport.requests] == [
        "/v1/batches",
        f"/v1/batches/{batch.id}/close",
    ]


def test_an_iterable_that_fails_halfway_cancels_what_was_sent() -> None:
    def numbers() -> Any:
        yield from range(1500)
        raise OSError("the file ended")

    client, transport = scripted(batch_server([]))

    with pytest.raises(OSError, match="the file ended"):
        client.map("m:f", numbers())

    assert all("cancel" in request.path for request in transport.requests[2:])


def test_answers_come_in_order_over_one_connection() -> None:
    text = line(0) + line(1) + line(2)
    batch, _, transport = mapped([text[:20], text[20:], b"\n"])

    assert list(batch) == [0, 10, 20]

    assert [request.path for request in transport.requests[1:]] == [
        f"/v1/batches/{batch.id}/answers?order=submitted&wait=30.0"
    ]


def test_a_broken_stream_goes_on_where_it_ended() -> None:
    lost = errors.ServerUnreachable("cut")
    batch, _, transport = mapped([line(0) + line(1)[:15], lost], [line(1)], [], [line(2)])

    assert list(batch) == [0, 10, 20]

    cursors = [request.path.partition("cursor=")[2][:2] for request in transport.requests[1:]]
    assert cursors == ["", "c0", "c1", "c1"]


def test_a_server_without_cursors_may_repeat_itself() -> None:
    first, second = line(0, cursor=None), line(1, cursor=None)
    batch, _, _ = mapped([first], [first + second], [first + second + line(2)])

    assert list(batch) == [0, 10, 20]


def test_streams_that_end_without_news_are_not_asked_for_in_a_hurry() -> None:
    quiet: list[Pieces | Reply] = [[] for _ in range(20)]
    batch, client, _ = mapped(*quiet, [line(0) + line(1) + line(2)])

    assert len(list(batch)) == 3

    assert client.session.clock() > 10


def test_a_line_that_is_no_answer_is_an_error_of_ours() -> None:
    batch, _, _ = mapped([b'{"index": "one"}\n'])

    with pytest.raises(errors.TaskServerError, match="not what this client expects"):
        list(batch)


def test_a_refused_stream_is_an_error() -> None:
    batch, _, _ = mapped(problem(410, "gone", "its answers are no longer kept"))

    with pytest.raises(errors.Gone):
        list(batch)


def test_a_failure_is_raised_at_its_place() -> None:
    error = {"kind": "timeout", "type": "", "message": "1 s", "traceback": ""}
    failed = line(1, state="failed", encoding=None, error=error)
    text: Pieces = [line(0) + failed + line(2)]
    batch, _, _ = mapped(text, text)
    values = iter(batch)

    assert next(values) == 0
    with pytest.raises(errors.TaskFailed, match="timeout"):
        next(values)
    assert [answer.state for answer in batch.answers()] == ["succeeded", "failed", "succeeded"]


ENDED = {"kind": "lost", "type": "DependencyEnded", "message": "task 7 failed", "traceback": ""}


def test_as_completed_gives_answers_in_the_order_of_ending() -> None:
    batch, _, transport = mapped([line(2) + line(0) + line(1, state="cancelled", error=ENDED)])

    answers = list(batch.as_completed())

    assert [answer.index for answer in answers] == [2, 0, 1]
    assert answers[0].result() == 20 and answers[0].exception() is None
    assert isinstance(answers[2].exception(), errors.TaskCancelled)
    assert "DependencyEnded: task 7 failed" in str(answers[2].exception())
    assert "order=finished" in transport.requests[1].path


def test_wait_asks_the_server_to_wait() -> None:
    views = [view(1), view(3, open=True), view(3)]
    client, transport = scripted(batch_server([], views))
    batch = client.map("m:f", range(3))

    assert batch.wait().progress == 1.0

    assert transport.requests[-1].path == f"/v1/batches/{batch.id}?wait=30.0"


def test_a_wait_that_is_too_short_says_how_far_it_is() -> None:
    client, _ = scripted(batch_server([], [view(1)] * 100))
    batch = client.map("m:f", range(3))

    with pytest.raises(errors.NotFinished, match="33%"):
        batch.wait(timeout=2)


def test_progress_and_eta_are_asked_for() -> None:
    client, _ = scripted(batch_server([], [view(1), view(1), view(3)]))
    batch = client.map("m:f", range(3))

    assert batch.progress() == pytest.approx(1 / 3)
    assert batch.eta() is None
    assert batch.done()
