"""The storage budget: it stops what comes in, and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from task_server.errors import StorageFull
from task_server.server.upkeep.budget import Budget
from tests.server.asgi import App, application
from tests.server.working import Worker, joined

BUDGET = 3_000_000
BODY = {"function": "len", "args": ["x" * 60_000]}
CONTENT = b"y" * 100_000
BLOB = "/v1/blobs/sha256:" + hashlib.sha256(CONTENT).hexdigest()
BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path, storage_bytes=BUDGET) as running:
        yield running


async def fill(app: App) -> list[str]:
    """Submit until the budget is used up; the ids."""
    ids: list[str] = []
    while not app.state.budget.is_full:
        reply = await app.ask("POST", "/v1/tasks", BODY)
        assert reply.status == 202, reply.body
        ids.append(reply.json["id"])
        assert len(ids) < 100, "the budget never ends"
    return ids


async def test_a_full_budget_takes_no_new_tasks_and_says_when_to_come_again(app: App) -> None:
    ids = await fill(app)
    before = app.stored()

    for path, body in (("/v1/tasks", BODY), ("/v1/tasks", [BODY]), ("/user/submit_task", BODY)):
        reply = await app.full(path, body)
        assert (reply.status, reply.code) == (507, "storage_full")
        assert int(reply.headers["retry-after"]) > 0
        assert str(BUDGET) in reply.text
    reply = await app.full(BLOB, CONTENT, method="PUT", headers=BYTES)
    assert reply.status == 507

    assert app.stored() == before
    assert 20 < len(ids) < 60, "what came in between two looks is counted too"


async def test_what_is_there_goes_on(app: App) -> None:
    ids = await fill(app)
    worker: Worker = await joined(app, slots=100)
    tasks = await worker.take(len(ids))
    assert len(tasks) == len(ids)

    put = await app.ask("PUT", BLOB, CONTENT, headers=BYTES, token="worker")
    await worker.succeed(*tasks)

    assert put.status == 201
    for task in ids:
        assert (await app.ask("GET", f"/v1/tasks/{task}/answer")).status == 200
    await app.state.budget.measure()
    assert len((await app.ask("GET", "/v1/tasks")).json["tasks"]) == len(ids), "nothing is evicted"


async def test_deleting_makes_room(app: App) -> None:
    ids = await fill(app)
    await app.state.budget.measure()
    for task in ids:
        await app.ask("POST", f"/v1/tasks/{task}/cancel")
        assert (await app.ask("DELETE", f"/v1/tasks/{task}")).status == 200

    await app.state.budget.measure()

    assert (await app.ask("POST", "/v1/tasks", BODY)).status == 202


async def test_readiness_tells_that_intake_is_off(app: App) -> None:
    assert (await app.ask("GET", "/readyz", token=None)).json["intake"] is True
    await fill(app)

    told = (await app.ask("GET", "/readyz", token=None)).json

    assert (told["ready"], told["intake"]) == (True, False)


async def test_a_server_starts_with_what_is_stored(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        for _ in range(40):
            await app.ask("POST", "/v1/tasks", BODY)
        assert not app.state.budget.is_full, "without a budget there is no limit"

    async with application(tmp_path, storage_bytes=2_000_000) as app:
        reply = await app.full("/v1/tasks", BODY)

    assert reply.status == 507


class Stored:
    """A store of which only the size is known."""

    size = 0

    async def stored_bytes(self) -> int:
        return self.size


async def test_intake_begins_again_only_well_below_the_budget() -> None:
    store = Stored()
    budget = Budget(1000, store)  # type: ignore[arg-type]  # all that it asks for
    steps = []
    for store.size in (999, 1000, 999, 951, 950, 949, 999, 1000):
        await budget.measure()
        try:
            budget.check_intake()
            steps.append(True)
        except StorageFull:
            steps.append(False)

    assert steps == [True, False, False, False, False, True, True, False]
