"""Following a batch: each member once, in order or as it ends, whenever it ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.asgi import App, application
from tests.server.working import Worker, joined


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as running:
        yield running


async def submitted(app: App, count: int) -> str:
    body = {"defaults": {"function": "math:sqrt"}, "tasks": [{"args": [i]} for i in range(count)]}
    reply = await app.ask("POST", "/v1/tasks", body)
    assert reply.status == 202, reply.body
    return str(reply.json["batch"])


async def leased(app: App, count: int) -> tuple[Worker, list[dict[str, Any]]]:
    worker = await joined(app, slots=count)
    tasks = await worker.take(count)
    return worker, sorted(tasks, key=lambda task: task["args"][0])


async def follow(app: App, batch: str, query: str = "") -> list[dict[str, Any]]:
    reply = await app.ask("GET", f"/v1/batches/{batch}/answers{query}")
    assert reply.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in reply.body.splitlines()]


async def test_members_that_ended_out_of_order_before_the_stream_began_are_all_told(
    app: App,
) -> None:
    batch = await submitted(app, 6)
    worker, tasks = await leased(app, 6)
    await worker.succeed(tasks[1], tasks[3], tasks[4])

    following = asyncio.ensure_future(follow(app, batch))
    await asyncio.sleep(0.05)
    await worker.succeed(tasks[0], tasks[2])
    await worker.succeed(tasks[5])
    lines = await asyncio.wait_for(following, 5)

    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4, 5]
    assert [line["answer"] for line in lines] == [0, 1, 2, 3, 4, 5]


async def test_as_finished_they_come_in_the_order_of_their_ends(app: App) -> None:
    batch = await submitted(app, 4)
    worker, tasks = await leased(app, 4)
    await worker.succeed(tasks[2])

    following = asyncio.ensure_future(follow(app, batch, "?order=finished"))
    await asyncio.sleep(0.05)
    for index in (3, 0, 1):
        await worker.succeed(tasks[index])
    lines = await asyncio.wait_for(following, 5)

    assert [line["index"] for line in lines] == [2, 3, 0, 1]


@pytest.mark.parametrize("order", ["submitted", "finished"])
async def test_a_cursor_goes_on_behind_the_line_that_told_it(app: App, order: str) -> None:
    batch = await submitted(app, 5)
    worker, tasks = await leased(app, 5)
    await worker.succeed(*tasks)

    lines = await follow(app, batch, f"?order={order}")
    rest = await follow(app, batch, f"?order={order}&cursor={lines[1]['cursor']}")

    assert rest == lines[2:]


async def test_an_open_batch_goes_on_until_it_is_closed(app: App) -> None:
    batch = (await app.ask("POST", "/v1/batches", {"name": "night"})).json["id"]
    following = asyncio.ensure_future(follow(app, batch))
    await asyncio.sleep(0.02)
    await app.ask(
        "POST", f"/v1/tasks?batch={batch}", [{"function": "abs", "args": [n]} for n in (7, 8)]
    )
    worker, tasks = await leased(app, 2)
    await worker.succeed(*tasks)
    await asyncio.sleep(0.02)
    assert not following.done()

    await app.ask("POST", f"/v1/batches/{batch}/close", b"")
    lines = await asyncio.wait_for(following, 5)

    assert [line["answer"] for line in lines] == [7, 8]


async def test_the_stream_ends_when_its_time_is_up(app: App) -> None:
    batch = await submitted(app, 1)

    assert await asyncio.wait_for(follow(app, batch, "?wait=0.1"), 5) == []


async def test_a_batch_tells_its_counts_and_is_waited_for(app: App) -> None:
    batch = await submitted(app, 3)
    worker, tasks = await leased(app, 3)
    await worker.succeed(tasks[0])

    half = (await app.ask("GET", f"/v1/batches/{batch}")).json
    waiting = asyncio.ensure_future(app.ask("GET", f"/v1/batches/{batch}?wait=10"))
    await asyncio.sleep(0.02)
    await worker.succeed(*tasks[1:])
    done = (await asyncio.wait_for(waiting, 5)).json

    assert half["counts"]["succeeded"] == 1 and half["counts"]["running"] == 2
    assert half["progress"] == pytest.approx(1 / 3)
    assert done["counts"]["succeeded"] == 3 and done["progress"] == 1


async def test_another_owners_batch_is_not_there(app: App) -> None:
    batch = await submitted(app, 1)

    reply = await app.ask("GET", f"/v1/batches/{batch}/answers", token="other")

    assert reply.status == 404
