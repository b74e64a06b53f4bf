"""`after` and `keep` over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from task_server.protocol import ids
from tests.server.asgi import App, application
from tests.server.working import joined

TASKS = "/v1/tasks"


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as running:
        yield running


def new_id() -> str:
    return ids.to_text(ids.new_id())


def item(task: str, *after: str, **fields: Any) -> dict[str, Any]:
    return {"id": task, "function": "math:sqrt", "args": [4], "after": list(after), **fields}


async def test_tasks_of_a_list_start_one_after_the_other(app: App) -> None:
    first, second, third = new_id(), new_id(), new_id()
    body = [item(third, second, first), item(second, first), item(first)]
    reply = await app.ask("POST", TASKS, body)
    assert reply.status == 202, reply.body
    worker = await joined(app, slots=5)
    order = []
    while tasks := await worker.take(5):
        order += [task["id"] for task in tasks]
        await worker.succeed(*tasks)

    assert order == [first, second, third]


async def test_what_waits_says_so(app: App) -> None:
    first, second = new_id(), new_id()
    await app.ask("POST", TASKS, item(first))
    reply = await app.ask("POST", TASKS, item(second, first))
    assert reply.status == 202

    assert (await app.ask("GET", f"{TASKS}/{second}")).json["state"] == "delayed"
    told = (await app.ask("GET", f"/user/request_answer/{second}")).json
    assert (told["state"], told["reason"]) == ("delayed", "it waits for other tasks")


async def test_what_waited_in_vain_says_for_which(app: App) -> None:
    first, second = new_id(), new_id()
    await app.ask("POST", TASKS, [item(first), item(second, first)])

    await app.ask("POST", f"{TASKS}/{first}/cancel")

    view = (await app.ask("GET", f"{TASKS}/{second}")).json
    assert (view["state"], view["error"]["kind"]) == ("cancelled", "lost")
    assert first in view["error"]["message"]
    plain = (await app.ask("GET", f"/user/request_answer/{second}")).json
    assert plain["state"] == "cancelled" and first in plain["error"]["message"]
    refusal = await app.ask("GET", f"{TASKS}/{second}/answer")
    assert refusal.status == 409 and first in refusal.json["error"]["message"]
    batch = view["batch"]
    lines = (await app.ask("GET", f"/v1/batches/{batch}/answers")).body.splitlines()
    assert len(lines) == 2 and first.encode() in lines[1]


async def test_a_task_that_is_not_there_is_named(app: App) -> None:
    absent, theirs = new_id(), new_id()
    await app.ask("POST", TASKS, item(theirs), token="other")
    for task in (absent, theirs):
        alone = await app.refused(422, "POST", TASKS, item(new_id(), task))
        listed = await app.refused(422, "POST", TASKS, [item(new_id()), item(new_id(), task)])

        assert alone.json["errors"] == [
            {"field": "after", "message": f"there is no task {task} to wait for"}
        ]
        assert [each["index"] for each in listed.json["errors"]] == [1]
        assert task in alone.text and listed.text.startswith("task 1: ")


async def test_tasks_that_wait_for_each_other_are_refused(app: App) -> None:
    one, two = new_id(), new_id()

    reply = await app.refused(422, "POST", TASKS, [item(one, two), item(two, one)])
    itself = await app.refused(422, "POST", TASKS, item(one, one))

    assert [each["index"] for each in reply.json["errors"]] == [0, 1]
    assert itself.fields == ["after"]


@pytest.mark.parametrize(
    "after,field",
    [
        ("x", "after"),
        (["x"], "after"),
        ([""], "after"),
        ([1], "after[0]"),
        ([new_id().upper()], "after"),
        (["../x"], "after"),
    ],
)
async def test_what_is_no_list_of_ids_is_refused(app: App, after: object, field: str) -> None:
    body = {"function": "math:sqrt", "after": after}

    reply = await app.refused(422, "POST", TASKS, body)

    assert reply.fields == [field]


async def test_there_is_a_limit_to_what_is_waited_for(app: App) -> None:
    body = {"function": "math:sqrt", "after": [new_id() for _ in range(10_001)]}

    reply = await app.refused(422, "POST", TASKS, body)

    assert "at most 10000" in reply.text


@pytest.mark.parametrize("after", [None, []])
async def test_nothing_to_wait_for_is_nothing(app: App, after: object) -> None:
    reply = await app.ask("POST", TASKS, {"function": "math:sqrt", "args": [4], "after": after})
    assert reply.status == 202
    worker = await joined(app)

    assert len(await worker.take(1)) == 1


async def test_the_members_of_a_list_may_share_what_they_wait_for(app: App) -> None:
    first = new_id()
    await app.ask("POST", TASKS, item(first))
    body = {
        "defaults": {"function": "math:sqrt", "after": [first]},
        "tasks": [{"args": [1]}, {"args": [2]}],
    }
    assert (await app.ask("POST", TASKS, body)).status == 202
    worker = await joined(app, slots=5)
    tasks = await worker.take(5)
    assert [task["id"] for task in tasks] == [first]
    await worker.succeed(*tasks)

    assert len(await worker.take(5)) == 2


@pytest.mark.parametrize("keep", [0, 5, 86400.5, "until_read", None])
async def test_a_keep_is_taken(app: App, keep: object) -> None:
    reply = await app.ask("POST", TASKS, {"function": "math:sqrt", "args": [4], "keep": keep})

    assert reply.status == 202


@pytest.mark.parametrize("keep", [-1, 1e300, "for ever", True, [5], {}])
async def test_a_keep_that_means_nothing_is_refused(app: App, keep: object) -> None:
    reply = await app.refused(422, "POST", TASKS, {"function": "math:sqrt", "keep": keep})

    assert reply.fields == ["keep"]
