"""Environments ordered ahead of their tasks: from the request to what each worker is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from task_server.environments.lock import Lock, Pin, empty_lock
from task_server.server.service import resolve
from task_server.server.uv_lock import LockFailed
from tests.server.asgi import App, Reply, application
from tests.server.working import Worker, joined

GREET = Lock("3.11", (Pin("greet", "1.0", None, (f"sha256:{'1' * 64}",)),))
WAIT_SECONDS = 20.0


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    async def lock(request: Any, **options: Any) -> Lock:
        if "absent" in request.text:
            raise LockFailed("'absent' was not found in the package index", is_retryable=False)
        return Lock(request.python, GREET.pins)

    monkeypatch.setattr(resolve, "lock", lock)
    async with application(tmp_path) as running:
        yield running


async def want(app: App, query: str = "", **fields: Any) -> dict[str, Any]:
    reply = await app.ask("POST", f"/v1/environments{query}", {"package": "greet", **fields})
    assert reply.status == 202, reply.body
    found: dict[str, Any] = reply.json
    return found


async def show(app: App, digest: str = GREET.digest) -> dict[str, Any]:
    found: dict[str, Any] = (await app.ask("GET", f"/v1/environments/{digest}")).json
    return found


async def until(look: Callable[[], Awaitable[Any]]) -> Any:
    """What `look` finds when it finds something."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not (found := await look()):  # noqa: ASYNC110 - it is asked for
            await asyncio.sleep(0.05)
    return found


async def told(worker: Worker) -> dict[str, Any]:
    """The order that a worker is told of first."""

    async def look() -> Any:
        return (await worker.exchange()).get("orders")

    (order,) = await until(look)
    assert isinstance(order, dict)
    return order


async def test_all_workers_are_told_to_have_it_and_each_tells_how_far_it_is(app: App) -> None:
    one, other = await joined(app, name="one"), await joined(app, name="other")
    await want(app, modules=["greet.more"])
    order = await told(one)
    assert order["environment"] == GREET.digest
    assert (order["packages"], order["modules"]) == (["greet"], ["greet.more"])
    assert await told(other) == order

    await one.exchange(orders=[{"order": order["order"], "state": "ready"}])
    failure = {"order": order["order"], "state": "failed", "log": "no libfoo\0"}
    await other.exchange(orders=[failure])

    shown = await show(app)
    assert {each["name"]: each["state"] for each in shown["workers"]} == {
        "one": "ready",
        "other": "failed",
    }
    assert [each["log"] for each in shown["workers"] if "log" in each] == ["no libfoo"]
    assert (await want(app))["state"] == "preparing"  # asking again begins another round


async def test_the_list_is_told_once_and_again_when_a_reply_may_be_lost(app: App) -> None:
    worker = await joined(app)
    await want(app)
    order = await told(worker)

    as_before = await worker.exchange()
    assert "orders" not in as_before and as_before["prepare"] == []
    again = await worker.exchange(held=[])
    assert again["orders"] == [order]
    assert again["prepare"] == [order["environment"]]


async def test_a_parked_worker_is_woken(app: App) -> None:
    worker = await joined(app)
    parked = asyncio.ensure_future(worker.exchange(want=1, wait=20.0))
    await asyncio.sleep(0.1)

    begun = asyncio.get_running_loop().time()
    await want(app)

    assert (await parked)["orders"][0]["environment"] == GREET.digest
    assert asyncio.get_running_loop().time() - begun < 15


async def test_workers_that_join_later_catch_up(app: App) -> None:
    await want(app)

    assert (await told(await joined(app)))["environment"] == GREET.digest


async def test_only_workers_with_the_labels_and_the_python_are_meant(app: App) -> None:
    right = await joined(app, name="right", labels={"rack": "b", "gpu": "no"})
    await joined(app, name="wrong", labels={"rack": "a"})
    await joined(app, name="other Python", labels={"rack": "b"}, pythons=["3.12"])

    await want(app, labels={"rack": "b"})
    await told(right)

    assert [each["name"] for each in (await show(app))["workers"]] == ["right"]


async def test_of_two_orders_the_one_that_was_asked_for_last_is_told(app: App) -> None:
    worker = await joined(app, labels={"rack": "b"})
    await want(app, labels={"rack": "b"})
    await want(app, modules=["absent"])
    _, order = await until(lambda: two_orders(worker))
    await worker.exchange(orders=[{"order": order["order"], "state": "failed", "log": "absent"}])
    assert [each["state"] for each in (await show(app))["workers"]] == ["failed"]

    await want(app, labels={"rack": "b"})

    assert [each["state"] for each in (await show(app))["workers"]] == ["waiting"]


async def two_orders(worker: Worker) -> Any:
    orders = (await worker.exchange()).get("orders", [])
    return orders if len(orders) == 2 else None


async def test_waiting_ends_when_all_workers_are_done(app: App) -> None:
    worker = await joined(app)
    waiting = asyncio.ensure_future(want(app, "?wait=20"))
    order = await told(worker)
    await worker.exchange(orders=[{"order": order["order"], "state": "building"}])
    assert not waiting.done()

    await worker.exchange(orders=[{"order": order["order"], "state": "ready"}])

    found = await waiting
    assert (found["state"], found["environment"]) == ("ready", GREET.digest)


async def test_a_lock_that_fails_says_why(app: App) -> None:
    found = await want(app, "?wait=20", package="absent")

    assert found["state"] == "failed"
    assert "'absent' was not found" in found["error"]


async def test_the_standard_library_alone_can_be_ordered_and_a_lock_by_its_digest(
    app: App,
) -> None:
    worker = await joined(app)
    empty = empty_lock("3.11").digest
    assert (await want(app, package=None, modules=["sqlite3"]))["environment"] == empty
    assert (await told(worker))["environment"] == empty

    again = await want(app, package=None, environment=empty)

    assert again["environment"] == empty
    assert again["modules"] == []


async def test_what_is_wanted_no_longer_leaves_the_list(app: App) -> None:
    worker = await joined(app)
    await want(app)
    await told(worker)

    reply = await app.ask("POST", "/v1/environments/collect", {"environments": [GREET.digest]})

    assert reply.status == 202
    (order,) = (await worker.exchange())["orders"]
    assert "environment" not in order
    assert (await show(app))["wanted_until"] is None


async def test_a_collection_tells_what_each_worker_removed(app: App) -> None:
    worker = await joined(app)
    waiting = asyncio.ensure_future(app.ask("POST", "/v1/environments/collect?wait=20", {}))
    order = await told(worker)
    done = {"order": order["order"], "state": "ready", "log": "removed 2 environments, 5 MiB"}

    await worker.exchange(orders=[done])

    (row,) = (await waiting).json["workers"]
    assert (row["state"], row["log"]) == ("ready", "removed 2 environments, 5 MiB")


async def test_environments_are_listed_with_what_they_were_asked_for_as(app: App) -> None:
    worker = await joined(app)
    await want(app, "?wait=0.5")
    await told(worker)
    await worker.exchange(environments=[{"digest": GREET.digest, "state": "ready"}])

    rows = (await app.ask("GET", "/v1/environments")).json["environments"]

    (row,) = [each for each in rows if each["environment"] == GREET.digest]
    assert row["requirements"] == [["greet"]]
    assert (row["ready"], row["workers"], row["python"]) == (1, 1, "3.11")
    assert row["wanted_until"]


async def test_an_environment_that_was_asked_for_by_its_lock_alone_is_listed_with_what_that_pins(
    app: App,
) -> None:
    await want(app, "?wait=20&until=locked")
    await app.ask("POST", "/v1/environments/collect", {"environments": [GREET.digest]})
    while await app.state.store.forget_unused(keep_seconds=0.0):
        pass

    ordered = await app.ask("POST", "/v1/environments", {"environment": GREET.digest})
    rows = (await app.ask("GET", "/v1/environments")).json["environments"]

    assert ordered.json["requirements"] == ["greet==1.0"]
    (row,) = [each for each in rows if each["environment"] == GREET.digest]
    assert row["requirements"] == [["greet==1.0"]]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"package": "a b"}, "package"),
        ({"package": "greet", "python": "3"}, "python"),
        ({"package": "greet", "modules": ["a; import os"]}, "modules"),
        ({"package": "greet", "modules": ["a.class"]}, "modules"),
        ({"package": "greet", "labels": {"a": "x" * 500}}, "labels"),
        ({"package": "greet", "keep": 0}, "keep"),
        ({"package": "greet", "environment": "0" * 64}, "environment"),
        ({"package": "greet", "colour": "red"}, "colour"),
    ],
)
async def test_a_wrong_order_is_refused(app: App, body: dict[str, Any], field: str) -> None:
    reply = await app.refused(422, "POST", "/v1/environments", body)

    assert reply.fields == [field]


async def test_an_unknown_digest_cannot_be_ordered(app: App) -> None:
    await app.refused(404, "POST", "/v1/environments", {"environment": "0" * 64})
    await app.refused(422, "POST", "/v1/environments/collect", {"environments": ["x"]})


# ---- Pythons


async def ask_for(app: App, **fields: Any) -> Reply:
    return await app.ask("POST", "/v1/tasks", {"function": "math:sqrt", "args": [4], **fields})


async def test_a_python_that_no_worker_has_is_refused_at_submit(app: App) -> None:
    await joined(app, pythons=["3.11", "3.9"])

    reply = await ask_for(app, python="3.12")

    assert (reply.status, reply.fields) == (422, ["python"])
    assert "they have 3.9, 3.11" in reply.text
    assert (await ask_for(app, python="3.9")).status == 202
    ordered = await app.refused(
        422, "POST", "/v1/environments", {"package": "greet", "python": "3.12"}
    )
    assert ordered.fields == ["python"]


async def test_without_workers_any_python_may_come(app: App) -> None:
    assert (await ask_for(app, python="3.12")).status == 202


async def test_a_worker_on_the_plain_api_may_have_any_python(app: App) -> None:
    await joined(app)
    await app.ask("GET", "/worker/request_task", token="other worker")

    assert (await ask_for(app, python="3.12")).status == 202
    assert (await ask_for(app, python="3.12", result_encoding="pickle")).status == 422


# ---- ahead of the queue


async def test_what_the_queue_needs_next_is_built_while_all_slots_are_busy(app: App) -> None:
    worker = await joined(app, slots=1)
    await ask_for(app)
    await worker.take(1)
    assert (await ask_for(app, function="greet:hello", package="greet")).status == 202

    order = await told(worker)

    assert order == {"order": "", "environment": GREET.digest}


async def test_nothing_is_built_ahead_where_a_free_worker_has_it(app: App) -> None:
    free, busy = await joined(app, name="free"), await joined(app, name="busy", slots=1)
    await ask_for(app)
    await busy.take(1)
    await ask_for(app, function="greet:hello", package="greet")
    state = [{"digest": GREET.digest, "state": "ready"}]
    await free.exchange(environments=state)
    await until(lambda: _is_locked(app))

    await app.state.orders.look(app.state.clock())

    assert not (await busy.exchange()).get("orders")


async def _is_locked(app: App) -> bool:
    return app.state.store.environment_of("python 3.11\ngreet") is not None
