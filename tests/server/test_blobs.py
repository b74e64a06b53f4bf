"""Blobs as callers see them: whose they are, and what refers to them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from task_server.server.access import Caller
from task_server.server.api.blobs import reply_with
from task_server.server.bodies import Bodies
from task_server.server.http import JSON, Call
from task_server.server.request import Departure, Disconnected, Request
from task_server.store.blobs import OpenBlob, name_of
from tests.server.asgi import App, application

LARGE = json.dumps(["x" * 100, *range(20_000)]).encode()
MISSING = "sha256:" + "0" * 64


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as app:
        yield app


async def put(app: App, data: bytes, token: str = "user") -> str:
    name = name_of(data)
    reply = await app.ask("PUT", f"/v1/blobs/{name}", data, token=token, headers={})
    assert (reply.status, reply.json) == (201, {"blob": name, "size": len(data)})
    return name


def task(blob: str) -> dict[str, Any]:
    return {"function": "builtins:len", "call": {"encoding": "json", "blob": blob}}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_blob_is_there_for_its_owner_and_for_workers(app: App, method: str) -> None:
    path = f"/v1/blobs/{await put(app, b'content')}"

    for token in ("user", "worker"):
        reply = await app.ask(method, path, token=token)
        assert reply.status == 200
        assert reply.headers["content-length"] == "7"
        assert reply.body == (b"content" if method == "GET" else b"")
    await app.refused(404, method, path, token="other")


async def test_what_a_worker_uploaded_is_read_by_whoever_can_name_it(app: App) -> None:
    path = f"/v1/blobs/{await put(app, b'content', 'worker')}"

    for token in ("user", "other"):
        assert (await app.ask("GET", path, token=token)).body == b"content"


async def test_a_blob_that_is_not_there_is_not_found(app: App) -> None:
    for method in ("GET", "HEAD"):
        for token in ("user", "worker"):
            await app.refused(404, method, f"/v1/blobs/{MISSING}", token=token)


async def test_arguments_in_a_blob_must_be_there_first(app: App) -> None:
    there = await put(app, b"[[[1]],{}]")

    one = await app.refused(422, "POST", "/v1/tasks", task(MISSING))
    assert one.fields == ["call.blob"]
    tasks = [task(there), task(MISSING), task(there), task(MISSING[:-1] + "1")]
    many = await app.refused(422, "POST", "/v1/tasks", {"tasks": tasks})
    assert [(each["index"], each["field"]) for each in many.json["errors"]] == [
        (1, "call.blob"),
        (3, "call.blob"),
    ]
    assert (await app.ask("POST", "/v1/tasks", {"tasks": [task(there)] * 3})).status == 202


async def test_arguments_need_not_be_there_to_be_estimated(app: App) -> None:
    told = await app.ask("POST", "/v1/estimates", {"tasks": [task(MISSING)]})

    assert told.status == 200 and len(told.json["calls"]) == 1


async def test_large_arguments_of_many_tasks_reach_the_worker(app: App) -> None:
    lists = [[number, "x" * 100_000] for number in range(5)]
    tasks = [{"function": "builtins:len", "args": [each]} for each in lists]

    submitted = await app.ask("POST", "/v1/tasks", {"tasks": tasks})
    assert submitted.status == 202

    join = {"name": "w", "protocol": [1, 1], "slots": 9, "pythons": ["3.11"]}
    worker = (await app.ask("POST", "/v1/workers", join, token="worker")).json
    exchange = {"session": worker["session"], "number": 1, "seen": 0, "want": 9, "wait": 0}
    exchange |= {"draining": False, "reports": []}
    path = f"/v1/workers/{worker['worker']}/exchange"
    dealt = (await app.ask("POST", path, exchange, token="worker")).json["tasks"]

    calls = {each["id"]: each["call"] for each in dealt}
    for identifier, expected in zip(submitted.json["ids"], lists, strict=True):
        call = calls[identifier]
        blob = await app.ask("GET", f"/v1/blobs/{call['blob']}", token="worker")
        assert (call["encoding"], blob.json) == ("json", [[expected], {}])


async def test_a_large_answer_of_a_plain_worker_is_streamed_back(app: App) -> None:
    asking = asyncio.ensure_future(
        app.ask("POST", "/user/submit_task?wait=30", {"function": "builtins:len", "args": [[1]]})
    )
    leased = (await app.ask("GET", "/worker/request_task?wait=30", token="worker")).json
    body = b'{"id": "%s", "answer": %s}' % (leased["id"].encode(), LARGE)
    for _ in range(2):
        told = await app.ask("POST", "/worker/submit_answer", body, token="worker")
        assert told.status == 200
    assert told.json["duplicate"] is True

    view = (await app.ask("GET", f"/v1/tasks/{leased['id']}")).json
    assert (view["state"], view["blob"]) == ("succeeded", name_of(LARGE))
    waited = await asking
    assert waited.json == {
        **{"sucsess": True, "success": True, "id": leased["id"]},
        "answer": json.loads(LARGE),
    }
    for path in (f"/v1/tasks/{leased['id']}/answer", f"/v1/blobs/{view['blob']}"):
        assert (await app.ask("GET", path)).body == LARGE
    asked = await app.ask("GET", f"/user/request_answer/{leased['id']}")
    assert asked.json == {"sucsess": True, "success": True, "answer": json.loads(LARGE)}
    assert int(asked.headers["content-length"]) == len(asked.body)


async def test_a_blob_is_read_no_further_when_its_reader_has_gone() -> None:
    departure = Departure()
    given: list[int] = []
    is_closed = False

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal is_closed
        try:
            for number in range(1000):
                given.append(number)
                yield b"piece"
        finally:
            is_closed = True

    request = Request("GET", "/", departure=departure)
    call = Call(request, Caller("user", 1, 1), Bodies(2**20))
    reply = reply_with(call, OpenBlob(5000, pieces()), content_type=JSON)
    assert not isinstance(reply.body, bytes)

    with pytest.raises(Disconnected):
        async for _ in reply.body:
            if len(given) == 3:
                departure.happen()
            await asyncio.sleep(0)

    assert len(given) < 10 and is_closed
