"""What users say that a task requires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from task_server.errors import Invalid
from task_server.protocol.tasks import Requires as Asked
from task_server.protocol.tasks import Task
from task_server.scheduling.requires import Requires, requires_of
from task_server.server.service.requires import read_requires
from task_server.server.service.specs import make_spec
from tests.server.asgi import App, application
from tests.server.working import joined


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as app:
        yield app


@pytest.mark.parametrize(
    "said,size",
    [
        (0, 0),
        (1.5, 2),
        (2**40, 2**40),
        ("0B", 0),
        ("512B", 512),
        ("2kB", 2_000),
        ("2 KB", 2_000),
        ("2KiB", 2_048),
        ("1.5MiB", 3 * 2**19),
        ("16 GiB", 2**34),
        ("16GB", 16 * 10**9),
        (" 1TiB ", 2**40),
    ],
)
def test_memory_is_a_number_or_a_text(said: float | str, size: int) -> None:
    assert read_requires(Asked(memory=said)) == Requires(memory=size)


@pytest.mark.parametrize("said", ["", "B", "2", "2G", "2 gib", "-1GiB", "1e3B", "1.GiB", "9" * 99])
def test_other_texts_are_no_memory(said: str) -> None:
    with pytest.raises(Invalid, match="is a number of bytes, or a text"):
        read_requires(Asked(memory=said))


def test_labels_are_in_one_order_whatever_was_said() -> None:
    one = read_requires(Asked(labels={"rack": "b", "disk": "ssd"}))
    other = read_requires(Asked(labels={"disk": "ssd", "rack": "b"}))

    assert one.text == other.text
    assert one.labels == (("disk", "ssd"), ("rack", "b"))


def spec(**fields: Any) -> Any:
    task = Task(function="math:sqrt", **fields)
    return make_spec(task, owner=1, is_plain=True, default_python="3.11")


def test_a_task_that_requires_something_is_for_no_plain_worker() -> None:
    asked = spec(requires=Asked(cpu=2, memory="1GiB", gpu=0))

    assert not asked.plain
    assert requires_of(asked.requires) == Requires(cpu=2.0, memory=2**30)


@pytest.mark.parametrize("fields", [{}, {"requires": None}, {"requires": Asked()}])
def test_to_require_nothing_is_as_not_to_say_so(fields: dict[str, Any]) -> None:
    assert spec(**fields) == spec() and spec().plain and spec().requires == ""


# ---- over HTTP


async def test_a_worker_hears_what_a_task_may_use(app: App) -> None:
    requires = {"cpu": 2, "memory": "1GiB", "gpu": 1, "labels": {"rack": "b"}}
    await app.ask("POST", "/v1/tasks", {"function": "len", "args": ["a"], "requires": requires})
    worker = await joined(app, cpu=4, memory=2**33, gpu=1, labels={"rack": "b"})

    (task,) = await worker.take(1)

    assert task["limits"] == {"memory": 2**30, "cpu": 2.0, "gpus": 1}


@pytest.mark.parametrize("requires", [None, {}, {"labels": {"rack": "b"}}])
async def test_a_task_that_takes_nothing_has_the_workers_own_limits(
    app: App, requires: dict[str, Any] | None
) -> None:
    await app.ask("POST", "/v1/tasks", {"function": "len", "args": ["a"], "requires": requires})
    worker = await joined(app, labels={"rack": "b"})

    (task,) = await worker.take(1)

    assert "limits" not in task


async def test_a_tasks_own_requirements_take_the_place_of_the_shared_ones(app: App) -> None:
    defaults = {"function": "len", "args": ["a"], "requires": {"cpu": 2, "gpu": 1}}
    own = {"function": "len", "args": ["a"], "requires": {"memory": "1GiB"}}
    await app.ask("POST", "/v1/tasks", {"defaults": defaults, "tasks": [own]})
    worker = await joined(app, memory=2**33)

    (task,) = await worker.take(1)

    assert task["limits"] == {"memory": 2**30}


async def test_workers_are_listed_with_what_they_have(app: App) -> None:
    await joined(app, cpu=4, memory=2**33, gpu=2)

    (worker,) = (await app.ask("GET", "/v1/workers")).json["workers"]

    assert (worker["cpu"], worker["memory"], worker["gpu"]) == (4.0, 2**33, 2)


async def test_resources_no_column_holds_are_bounded(app: App) -> None:
    await joined(app, cpu=-1, memory=2**80, gpu=2**80)
    await joined(app, gpu=-5)

    assert len((await app.ask("GET", "/v1/workers")).json["workers"]) == 2
