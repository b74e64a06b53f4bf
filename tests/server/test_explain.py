"""`/v1/tasks/{id}/explain`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from task_server.server.service import wording
from tests.server.asgi import App, application
from tests.server.working import Worker, joined

TASKS = "/v1/tasks"
GIB = 2**30


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as app:
        yield app


async def submitted(app: App, **fields: Any) -> str:
    body = {"function": "len", "args": ["abc"], **fields}
    reply = await app.ask("POST", TASKS, body)
    assert reply.status == 202, reply.body
    task: str = reply.json["id"]
    return task


async def explained(app: App, task: str) -> dict[str, Any]:
    reply = await app.ask("GET", f"{TASKS}/{task}/explain")
    assert reply.status == 200, reply.body
    told: dict[str, Any] = reply.json
    return told


def codes(told: dict[str, Any]) -> list[str]:
    return [each["code"] for each in told["reasons"]]


async def failed(worker: Worker, task: dict[str, Any], kind: str = "exception") -> None:
    error = {"kind": kind, "type": "ValueError", "message": "no such thing"}
    report = {"lease": task["lease"], "outcome": "failed", "error": error}
    await worker.exchange(reports=[{**report, "usage": {"run_seconds": 1.5}}])


async def test_without_a_worker_it_says_how_to_start_one(app: App) -> None:
    told = await explained(app, await submitted(app))

    assert told["summary"] == "waiting: no worker is there; start one with `task-server worker`"
    assert (told["state"], told["phase"], told["expected_seconds"]) == ("queued", "waiting", None)


async def test_what_no_worker_can_ever_meet_says_what_they_lack(app: App) -> None:
    await joined(app, memory=4 * GIB)
    await joined(app, memory=64 * GIB, pythons=["3.12"])
    task = await submitted(app, requires={"memory": "16GiB", "labels": {"rack": "b"}})

    told = await explained(app, task)

    assert told["summary"] == (
        "waiting: none of 2 workers can run it: 1 worker has no Python 3.11;"
        " 1 worker has not the labels rack=b"
    )
    assert told["workers"] == {
        "total": 2,
        "free": 0,
        "fit": 0,
        "lacks": {"python": 1, "labels": 1},
    }
    assert sorted(codes(told)) == ["labels", "python"]


async def test_workers_that_take_no_tasks_say_why(app: App) -> None:
    stopping, full = await joined(app, slots=1), await joined(app, slots=1)
    await stopping.exchange(draining=True)
    await full.exchange(wait=0.001)

    told = await explained(app, await submitted(app))

    assert told["summary"] == (
        "waiting: none of 2 workers can run it: 1 worker stops and takes no more tasks;"
        " 1 worker asks for no tasks now: the disk is full, or what runs hangs"
    )
    assert told["workers"]["lacks"] == {"draining": 1, "paused": 1}
    assert told["expected_seconds"] is None


async def test_a_worker_that_asks_again_is_one_that_could_have_it(app: App) -> None:
    worker = await joined(app, slots=1)
    await worker.exchange(wait=0.001)
    await worker.exchange(want=1)

    told = await explained(app, await submitted(app))

    assert told["workers"]["lacks"] == {}


async def test_a_busy_worker_asks_for_nothing_and_is_only_busy(app: App) -> None:
    worker = await joined(app, slots=1)
    await submitted(app)
    await worker.take(1)
    await worker.exchange(wait=0.001)

    told = await explained(app, await submitted(app))

    assert told["workers"]["lacks"] == {"free_slot": 1}


async def test_what_has_to_wait_for_memory_says_until_when(app: App) -> None:
    big = {"memory": "16GiB"}
    worker = await joined(app, memory=20 * GIB)
    await joined(app, memory=4 * GIB)
    await submitted(app, requires=big)
    await worker.take(1)

    told = await explained(app, await submitted(app, requires=big))

    assert "waiting: 0 of 2 workers have 16 GiB free; next slot expected in " in told["summary"]
    assert told["workers"]["lacks"] == {"free_memory": 1, "memory": 1}
    expected = told["expected_seconds"]
    assert 0 <= expected["low"] < expected["high"]


async def test_what_is_next_says_so_and_what_comes_first(app: App) -> None:
    await joined(app)
    first, second = await submitted(app), await submitted(app)

    assert "1 of 1 worker could have it now; it is next" in (await explained(app, first))["summary"]
    told = await explained(app, second)
    assert "1 task of the same owner comes first" in told["reasons"][0]["message"]
    assert told["before"] == {"tasks": 1, "owners": 0}


async def test_a_higher_priority_comes_first(app: App) -> None:
    low = await submitted(app)
    await app.ask("POST", TASKS, [{"function": "len", "args": ["a"], "priority": 3}] * 3)

    assert (await explained(app, low))["before"]["tasks"] == 3


async def test_a_sandbox_that_no_worker_reaches_is_named(app: App) -> None:
    await joined(app, sandbox=1)

    told = await explained(app, await submitted(app, require_sandbox=3))

    assert told["reasons"] == [
        {"code": "sandbox", "message": "1 worker does not reach level 3 of the sandbox"}
    ]


async def test_an_environment_that_could_not_be_built_is_named(app: App) -> None:
    worker = await joined(app)
    task = await submitted(app)
    (dealt,) = await worker.take(1)
    report = {"lease": dealt["lease"], "outcome": "released", "unfit": True}
    await worker.exchange(reports=[report])

    assert codes(await explained(app, task)) == ["environment"]


async def test_what_waits_for_others_names_them(app: App) -> None:
    first = await submitted(app)

    told = await explained(app, await submitted(app, after=[first]))

    assert (told["state"], codes(told)) == ("delayed", ["after"])
    assert told["summary"] == f"delayed: waits until 1 other task succeeded: {first}"


async def test_what_is_not_to_start_yet_says_when(app: App) -> None:
    moment = "2026-01-01T00:00:00Z"
    task = await submitted(app, run_after="2999-01-01T00:00:00Z")

    told = await explained(app, task)

    assert codes(told) == ["run_after"]
    assert told["summary"].startswith("delayed: not to start before 2999-01-01T00:00:00Z, in ")
    assert (await explained(app, await submitted(app, run_after=moment)))["state"] == "queued"


async def test_what_failed_and_is_tried_again_says_so(app: App) -> None:
    worker = await joined(app)
    task = await submitted(app, retries={"max": 1, "backoff": 3600})
    await failed(worker, (await worker.take(1))[0])

    told = await explained(app, task)

    assert (told["state"], codes(told)) == ("delayed", ["retry"])
    assert "attempt 1 failed; tried again at" in told["summary"]


async def test_what_runs_says_where_and_how_long_still(app: App) -> None:
    worker = await joined(app, name="north")
    task = await submitted(app)
    await worker.take(1)

    told = await explained(app, task)

    assert (told["state"], told["worker"]) == ("running", "north")
    assert "north has had it for" in told["summary"]
    assert told["expected_seconds"]["high"] > 0


async def test_what_a_worker_does_with_a_task_is_told_as_far_as_the_worker_has_told_it(
    app: App,
) -> None:
    worker = await joined(app, name="north")
    task = await submitted(app)
    (dealt,) = await worker.take(1)

    untold = (await explained(app, task))["summary"]
    await worker.exchange(held=[{"lease": dealt["lease"], "phase": "installing"}])
    installing = (await explained(app, task))["summary"]
    await worker.exchange(held=[{"lease": dealt["lease"], "phase": "running"}])
    running = (await explained(app, task))["summary"]

    assert "; whether it has started is told within 40 s" in untold
    assert installing.startswith("installing: north has had it for ")
    assert " and builds its environment; expected" in installing
    assert running.startswith("running: north has had it for ")
    assert " and runs it; expected" in running


def test_a_worker_that_does_not_tell_what_it_does_is_not_waited_for() -> None:
    told = wording.held("north", "leased", elapsed=41.0, told_within=40.0)

    assert told.startswith("north has had it for 41 s; it waits behind others there, or")


async def test_what_ended_says_how(app: App) -> None:
    worker = await joined(app)
    good, bad = await submitted(app), await submitted(app)
    first, second = await worker.take(2)
    await worker.succeed(first, seconds=2.0)
    await failed(worker, second)

    told = await explained(app, good)
    assert told["summary"].startswith("succeeded: ran 2 s on w, attempt 1; started ")
    told = await explained(app, bad)
    assert told["summary"].startswith("failed: ValueError: no such thing; ran 1.5 s")
    assert codes(told) == ["exception"]


async def test_what_was_cancelled_says_so(app: App) -> None:
    task = await submitted(app)
    await app.ask("POST", f"{TASKS}/{task}/cancel")

    told = await explained(app, task)

    assert (told["state"], codes(told)) == ("cancelled", ["cancelled"])


async def test_another_users_task_is_as_one_that_is_not_there(app: App) -> None:
    task = await submitted(app)

    reply = await app.ask("GET", f"{TASKS}/{task}/explain", token="other")

    assert reply.status == 404


async def test_what_waits_for_a_worker_with_its_environment_says_so(app: App) -> None:
    cold, warm = await joined(app), await joined(app, slots=1)
    await submitted(app)
    (first,) = await cold.take(1)
    usage = {"run_seconds": 1.0, "install_seconds": 30.0}
    report = {"lease": first["lease"], "outcome": "succeeded", "encoding": "json", "answer": 3}
    await cold.exchange(reports=[{**report, "usage": usage}])
    await warm.exchange(environments=[{"digest": first["environment"], "state": "ready"}])
    await submitted(app)
    assert len(await warm.take(1)) == 1
    task = await submitted(app)
    assert await cold.take(1) == []

    told = await explained(app, task)

    (reason,) = [each for each in told["reasons"] if each["code"] == "warm"]
    assert reason["message"].endswith("another would build it for 30 s")


async def test_a_run_says_when_it_is_ended_and_why_where_the_server_decides(app: App) -> None:
    worker = await joined(app)
    task = await submitted(app, timeout="auto")
    await worker.take(1)

    (limit,) = (
        each for each in (await explained(app, task))["reasons"] if each["code"] == "timeout"
    )

    assert limit["message"].startswith("it is ended after 60 min: the default, as only 0 calls")


@pytest.mark.parametrize(
    "lease_sizes,told", [("predicted", ["leased", "ahead"]), ("one", ["leased"])]
)
async def test_a_short_task_says_why_its_worker_has_several(
    tmp_path: Path, lease_sizes: str, told: list[str]
) -> None:
    async with application(tmp_path, lease_sizes=lease_sizes) as app:
        worker = await joined(app)
        await submitted(app)
        await worker.succeed(*await worker.take(1))
        task = await submitted(app)
        await worker.take(1)

        assert codes(await explained(app, task)) == told


async def test_without_fair_share_tasks_of_others_that_are_due_first_are_counted(
    tmp_path: Path,
) -> None:
    async with application(tmp_path, fair_share="off") as app:
        await joined(app, slots=1)
        await submitted(app)
        reply = await app.ask("POST", TASKS, {"function": "len", "args": ["b"]}, token="other")
        task = await submitted(app)

        told = await explained(app, task)

    assert reply.status == 202 and told["before"] == {"tasks": 2, "owners": 0}
    assert "2 tasks come first" in told["summary"]


@pytest.mark.parametrize("fair_share,owners", [("on", 1), ("off", 0)])
async def test_others_who_had_less_come_first_where_shares_are_fair(
    tmp_path: Path, fair_share: str, owners: int
) -> None:
    async with application(tmp_path, fair_share=fair_share) as app:
        worker = await joined(app, slots=1)
        _, second = await submitted(app), await submitted(app)
        reply = await app.ask("POST", TASKS, {"function": "len", "args": ["b"]}, token="other")
        assert reply.status == 202
        await worker.take(1)

        told = await explained(app, second)

    assert told["before"]["owners"] == owners
