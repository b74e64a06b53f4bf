"""A server that stops takes no new work, and still hears of what was done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.asgi import App, Reply, application, request_of
from tests.server.working import joined


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as app:
        yield app


async def post(app: App, path: str) -> Reply:
    """Submit a task in a way that a 503 is no failure of the test."""
    headers = [
        ("content-type", "application/json"),
        ("authorization", f"Bearer {app.tokens['user']}"),
        ("host", "127.0.0.1"),
    ]
    return await app.send(request_of("POST", path, headers), [b'{"function": "pow"}'])


@pytest.mark.parametrize("path", ["/v1/tasks", "/user/submit_task", "/v1/batches"])
async def test_a_server_that_stops_takes_no_new_work(app: App, path: str) -> None:
    before = app.stored()
    app.state.is_stopping = True

    reply = await post(app, path)

    assert (reply.status, reply.headers["retry-after"]) == (503, "1")
    assert reply.code == "unavailable" and "stopping" in reply.text
    assert app.stored() == before


async def test_a_server_that_stops_takes_answers_and_tells_them(app: App) -> None:
    submitted = await app.ask("POST", "/v1/tasks", {"function": "abs", "args": [7]})
    worker = await joined(app)
    (task,) = await worker.take(1)
    app.state.is_stopping = True

    await worker.succeed(task)

    found = await app.ask("GET", f"/v1/tasks/{submitted.json['id']}?wait=60")
    assert (found.json["state"], found.json["answer"]) == ("succeeded", 7)
