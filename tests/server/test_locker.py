"""Environments that cannot be locked: tried again, then told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from task_server.server.upkeep import lock as lock_module
from task_server.server.upkeep.lock import MAXIMUM_TRIES
from tests.environments.small_index import SmallIndex, small_index
from tests.server.asgi import application


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallIndex]:
    monkeypatch.setattr(lock_module, "FIRST_WAIT_SECONDS", 0.02)
    monkeypatch.setattr(lock_module, "LONGEST_WAIT_SECONDS", 0.1)
    with small_index() as index:
        index.add("something", "1.0", {"something.py": "def f(): return 1"})
        for name, value in index.environ(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        yield index


async def test_an_index_that_is_away_fails_nothing_however_long(
    index: SmallIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "task_server.server.upkeep.lock")
    index.status = 500
    async with application(tmp_path / "data") as app:
        body = {"function": "something:f", "package": "something"}
        task = (await app.ask("POST", "/v1/tasks", body)).json["id"]

        async with asyncio.timeout(20):
            while len(_tries(caplog)) <= 2 * MAXIMUM_TRIES:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        view = (await app.ask("GET", f"/v1/tasks/{task}")).json
        told = (await app.ask("GET", f"/v1/tasks/{task}/explain")).json
        index.status = 200

        assert _waits(caplog)[:5] == [0.02, 0.04, 0.08, 0.1, 0.1]
        assert (view["state"], view["phase"]) == ("queued", "locking")
        assert view["waits_for"].startswith("the package index could not be reached")
        assert [each["code"] for each in told["reasons"]] == ["lock_failed"]
        assert view["waits_for"] in told["summary"]
        async with asyncio.timeout(20):
            while (await app.ask("GET", f"/v1/tasks/{task}")).json["phase"] != "waiting":  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert "waits_for" not in (await app.ask("GET", f"/v1/tasks/{task}")).json


async def test_an_index_that_is_away_is_not_asked_for_tasks_that_are_cancelled(
    index: SmallIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "task_server.server.upkeep.lock")
    index.status = 500
    async with application(tmp_path / "data") as app:
        body = {"function": "something:f", "package": "something"}
        task = (await app.ask("POST", "/v1/tasks", body)).json["id"]
        async with asyncio.timeout(20):
            while not _tries(caplog):  # noqa: ASYNC110  # it is logged in the background
                await asyncio.sleep(0.02)

        await app.ask("POST", f"/v1/tasks/{task}/cancel")
        await asyncio.sleep(0.5)  # one that was under way
        asked = index.requests
        await asyncio.sleep(0.5)

        assert index.requests == asked


def _waits(caplog: pytest.LogCaptureFixture) -> list[float]:
    tries = [each.args for each in caplog.records if "again in" in each.getMessage()]
    return [float(str(args[1])) for args in tries if isinstance(args, tuple)]


def _tries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if "again in" in each.getMessage()]


async def test_an_index_that_refuses_is_asked_a_few_times_and_then_told(
    index: SmallIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "task_server.server.upkeep.lock")
    index.status = 403
    async with application(tmp_path / "data") as app:
        body = {"function": "something:f", "package": "something"}
        task = (await app.ask("POST", "/v1/tasks", body)).json["id"]

        view = (await app.ask("GET", f"/v1/tasks/{task}?wait=60")).json

        assert (view["state"], view["error"]["kind"]) == ("failed", "environment")
        assert "refused access" in view["error"]["message"]
        assert len(_tries(caplog)) == MAXIMUM_TRIES - 1 and view["attempt"] == 0


async def test_an_environment_that_failed_is_tried_anew_for_the_next_task(
    index: SmallIndex, tmp_path: Path
) -> None:
    index.status = 403
    body = {"function": "something:f", "package": "something"}
    async with application(tmp_path / "data") as app:
        failed = (await app.ask("POST", "/v1/tasks", body)).json["id"]
        assert (await app.ask("GET", f"/v1/tasks/{failed}?wait=60")).json["state"] == "failed"

        index.status = 200
        again = (await app.ask("POST", "/v1/tasks", body)).json["id"]

        async with asyncio.timeout(20):
            # It is told to nobody that something can be leased now.
            while (await app.ask("GET", f"/v1/tasks/{again}")).json["phase"] != "waiting":  # noqa: ASYNC110
                await asyncio.sleep(0.02)


async def test_of_several_servers_only_the_leader_locks(
    index: SmallIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_leader = False

    async def leads() -> bool:
        return is_leader

    async with application(tmp_path / "data") as app:
        monkeypatch.setattr(app.state.store, "leads", leads)
        await app.ask("POST", "/v1/tasks", {"function": "something:f", "package": "something"})

        await asyncio.sleep(0.3)  # many of its looks
        asked = index.requests
        is_leader = True
        async with asyncio.timeout(10):
            while not index.requests:  # noqa: ASYNC110  # in another thread
                await asyncio.sleep(0.01)

    assert asked == 0
    assert asyncio.all_tasks() == {asyncio.current_task()}  # the lock that was made is given up
