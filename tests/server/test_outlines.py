"""Single tasks that differ in their arguments alone are read by what was learned of the first."""

import json
from pathlib import Path

import msgspec
import pytest

from task_server.protocol.ids import new_id, to_text
from task_server.server.service.outlines import MAXIMUM_BYTES, outline_of
from task_server.server.service.requests import Read, Reader
from task_server.server.service.specs import Specs
from tests.server.asgi import application

TASK = {"module": "math", "function": "hypot"}


def outline(task: object) -> bytes | None:
    found = outline_of(json.dumps(task).encode())
    return None if found is None else found.text


def test_tasks_that_differ_in_their_own_have_one_outline() -> None:
    assert outline({**TASK, "args": [3, 4]}) == outline({**TASK, "args": [[5], "twelve"]})
    assert outline({**TASK, "kwargs": {"x": 1}}) == outline({**TASK, "kwargs": {"y": [2]}})


@pytest.mark.parametrize(
    "other",
    [
        {**TASK, "kwargs": {"args": [3, 4]}},
        {**TASK, "args": [3, 4], "priority": 1},
        {**TASK, "args": []},
        {"function": "hypot", "module": "math", "args": [3, 4]},
        {"args": [3, 4], **TASK},
    ],
)
def test_other_tasks_have_another(other: object) -> None:
    assert outline({**TASK, "args": [3, 4]}) != outline(other)


@pytest.mark.parametrize(
    "body",
    [
        b'{"function": "hypot", "args": [3, 4], "kwargs": {"x": [3, 4]}}',
        b'{"function": "hypot", "tags": ["a"], "args": ["a"]}',
        b'{"function": "hypot", "args": ["\0a"]}',
        b'{"function": "hypot", "args": 1',
        b'{"function": "hypot", "args": ["' + b"x" * MAXIMUM_BYTES + b'"]}',
        b"[" * 100_000,
    ],
)
def test_what_might_be_taken_for_something_else_has_none(body: bytes) -> None:
    assert outline_of(body) is None


async def test_a_key_that_stands_twice_is_refused_every_time(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        first = await app.ask("POST", "/v1/tasks", b'{"function": "math:hypot", "args": [3, 4]}')
        assert first.status == 202

        for _ in range(2):
            twice = b'{"function": "math:hypot", "args": [3, 4], "args": [6, 8]}'
            await app.refused(400, "POST", "/v1/tasks", twice)


async def test_a_known_outline_still_has_its_arguments_checked(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        body = b'{"function": "math:hypot", "args": %b}'
        assert (await app.ask("POST", "/v1/tasks", body % b"[3, 4]")).status == 202

        await app.refused(422, "POST", "/v1/tasks", body % b'{"a": 1}')
        await app.refused(422, "POST", "/v1/tasks", body % b"[1e999]")
        await app.refused(400, "POST", "/v1/tasks", body % (b"[" * 200 + b"]" * 200))
        assert (await app.ask("POST", "/v1/tasks", body % b"[5, 12]")).status == 202


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"args": [3, 4]},
        {"args": None, "kwargs": {"x": 1}},
        {"id": to_text(new_id(at=0.0)), "args": [3, 4]},
        {"run_after": "2030-01-01T00:00:00Z"},
        {"start_by": "2030-01-01T00:00:00Z", "args": [3, 4]},
        {"after": [to_text(new_id(at=0.0))]},
        {"features": {"size": 3}, "args": [3, 4]},
        {"call": {"encoding": "pickle", "data": "gASVAwAAAAAAAABLAS4="}},
        {"tags": ["a"], "retries": {"max": 2}, "args": ["b"]},
    ],
    ids=lambda more: "-".join(more) or "nothing",
)
def test_a_task_is_read_alike_the_first_and_the_second_time(more: dict[str, object]) -> None:
    specs, body = Specs(default_python="3.11"), json.dumps({**TASK, **more}).encode()

    first, second = (Reader(1, kinds=specs, now=0.0).read(body) for _ in range(2))

    assert second.specs == first.specs
    assert [told(each) for each in second.tasks] == [told(each) for each in first.tasks]


def told(task: Read) -> Read:
    """Without the digest of a task that has no id to be told apart by."""
    return task if task.id is not None else msgspec.structs.replace(task, digest=b"")
