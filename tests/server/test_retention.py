"""What is kept, what is gone, and what is told of it: 404, 410, and reads that count."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from task_server.protocol import ids
from task_server.server.upkeep import first_reads, prune
from task_server.server.upkeep.prune import Pruner
from tests.server.asgi import App, application
from tests.server.keeping import (
    DAY,
    FAILED,
    READ,
    SETTINGS,
    UNREAD,
    advance,
    now,
    purge,
    status,
    submitted,
    succeeded,
)
from tests.server.working import joined


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path, **SETTINGS) as running:
        yield running


# ---- what an id that is not there means


@pytest.mark.parametrize("kind", ["/v1/tasks/%s", "/user/request_answer/%s", "/v1/batches/%s"])
async def test_an_absent_id_tells_by_its_age_whether_there_may_have_been_one(
    tmp_path: Path, kind: str
) -> None:
    async with application(tmp_path, keep_read_seconds=3 * DAY) as app:
        for age, expected in ((0.0, 404), (2.9 * DAY, 404), (3.1 * DAY, 410), (40 * DAY, 410)):
            absent = ids.to_text(ids.new_id(at=now() - age))
            await app.refused(expected, "GET", kind % absent)


async def test_a_retention_of_less_than_a_day_counts_as_a_day(app: App) -> None:
    await app.refused(404, "GET", f"/v1/tasks/{ids.to_text(ids.new_id(at=now() - 0.9 * DAY))}")
    await app.refused(410, "GET", f"/v1/tasks/{ids.to_text(ids.new_id(at=now() - 1.1 * DAY))}")


async def test_a_purged_task_is_gone_for_its_owner_and_absent_for_others(app: App) -> None:
    (task,) = await succeeded(app)
    advance(app, UNREAD)
    assert await purge(app) == 1

    for path in (f"/v1/tasks/{task}", f"/v1/tasks/{task}/answer", f"/user/request_answer/{task}"):
        assert (await app.ask("GET", path)).status == 410
        theirs = await app.ask("GET", path, token="other")
        absent = await app.ask(
            "GET", path.replace(task, ids.to_text(ids.new_id(at=app.state.clock()))), token="other"
        )
        assert (theirs.status, theirs.body) == (absent.status, absent.body) == (404, absent.body)
    assert await status(app, task, token="admin") == 410
    for verb in ("cancel", "retry"):
        assert (await app.ask("POST", f"/v1/tasks/{task}/{verb}")).status == 410
    for part in ("logs", "history"):
        assert (await app.ask("GET", f"/v1/tasks/{task}/{part}")).status == 410
    assert (await app.ask("GET", "/v1/tasks")).json["tasks"] == []

    advance(app, DAY)
    assert await purge(app) == 1
    assert await status(app, task) == await status(app, task, token="other") == 410


async def test_a_worker_that_comes_too_late_is_told_that_it_is_gone(app: App) -> None:
    plain = {"function": "math.sqrt", "args": [4]}
    task = (await app.ask("POST", "/user/submit_task", plain)).json["id"]
    leased = await app.ask("GET", "/worker/request_task", token="worker")
    assert leased.json["id"] == task
    answer = {"id": task, "answer": 2.0}
    await app.ask("POST", "/worker/submit_answer", answer, token="worker")
    advance(app, UNREAD)
    await purge(app)

    late = await app.ask("POST", "/worker/submit_answer", answer, token="worker")
    assert late.status == 410
    await app.ask("DELETE", f"/v1/tasks/{task}")
    late = await app.ask("POST", "/worker/submit_answer", answer, token="worker")
    assert late.status == 410


# ---- deleting


async def test_a_deleted_task_is_gone_and_its_id_is_not_taken_again(app: App) -> None:
    task = ids.to_text(ids.new_id())
    body = {"function": "math:sqrt", "args": [4], "id": task}
    await app.ask("POST", "/v1/tasks", body)
    worker = await joined(app)
    await worker.succeed(*await worker.take(1))

    reply = await app.ask("DELETE", f"/v1/tasks/{task}")

    assert (reply.status, reply.json) == (200, {"id": task, "state": "purged"})
    assert (await app.ask("DELETE", f"/v1/tasks/{task}")).status == 200, "again, the same"
    await app.refused(410, "GET", f"/v1/tasks/{task}")
    await app.refused(410, "GET", f"/user/request_answer/{task}")
    await app.refused(410, "GET", f"/v1/tasks/{task}", token="admin")
    await app.refused(404, "GET", f"/v1/tasks/{task}", token="other")
    await app.refused(404, "DELETE", f"/v1/tasks/{task}", token="other")
    await app.refused(410, "POST", "/v1/tasks", body)
    await app.refused(409, "POST", "/v1/tasks", body, token="other")
    await app.refused(410, "POST", f"/v1/tasks/{task}/retry")


async def test_only_what_has_ended_is_deleted_and_only_by_its_owner(app: App) -> None:
    (task,) = await submitted(app)

    reply = await app.refused(409, "DELETE", f"/v1/tasks/{task}")
    assert "cancel" in reply.text
    await app.refused(404, "DELETE", f"/v1/tasks/{task}", token="other")
    await app.refused(403, "DELETE", f"/v1/tasks/{task}", token="worker")
    await app.refused(404, "DELETE", f"/v1/tasks/{ids.to_text(ids.new_id())}")
    await app.refused(404, "DELETE", "/v1/tasks/x")
    await app.ask("POST", f"/v1/tasks/{task}/cancel")

    assert (await app.ask("DELETE", f"/v1/tasks/{task}", token="admin")).status == 200
    assert await status(app, task) == 410


# ---- reads


async def read_view(app: App, task: str) -> None:
    await app.ask("GET", f"/v1/tasks/{task}")


async def read_answer(app: App, task: str) -> None:
    await app.ask("GET", f"/v1/tasks/{task}/answer")


async def read_plainly(app: App, task: str) -> None:
    await app.ask("GET", f"/user/request_answer/{task}")


async def follow(app: App, task: str, order: str = "submitted", token: str = "user") -> None:
    batch = (await app.ask("GET", f"/v1/tasks/{task}", token="admin")).json["batch"]
    await app.ask("GET", f"/v1/batches/{batch}/answers?order={order}", token=token)


async def follow_as_finished(app: App, task: str) -> None:
    await follow(app, task, "finished")


async def look_at_list(app: App, task: str) -> None:
    await app.ask("GET", "/v1/tasks")


async def look_as_admin(app: App, task: str) -> None:
    await app.ask("GET", f"/v1/tasks/{task}", token="admin")
    await app.ask("GET", f"/v1/tasks/{task}/answer", token="admin")
    await follow(app, task, token="admin")


async def ask_as_another(app: App, task: str) -> None:
    await app.ask("GET", f"/v1/tasks/{task}", token="other")


Reading = Callable[[App, str], Awaitable[None]]


@pytest.mark.parametrize(
    "reading,counts",
    [
        (read_view, True),
        (read_answer, True),
        (read_plainly, True),
        (follow, True),
        (follow_as_finished, True),
        (look_at_list, False),
        (look_as_admin, False),
        (ask_as_another, False),
    ],
)
async def test_an_answer_that_its_owner_has_read_is_kept_for_less_long(
    app: App, reading: Reading, counts: bool
) -> None:
    (task,) = await succeeded(app)
    await reading(app, task)
    await app.state.first_reads.flush()
    advance(app, READ + 1)

    assert await purge(app) == int(counts)


async def test_a_submit_that_waits_for_the_answer_has_read_it(app: App) -> None:
    worker = await joined(app)
    asking = asyncio.ensure_future(
        app.ask("POST", "/v1/tasks?wait=20", {"function": "math:sqrt", "args": [4]})
    )
    tasks: list[dict[str, Any]] = []
    while not tasks:
        tasks = (await worker.exchange(want=1, wait=1.0))["tasks"]
    await worker.succeed(*tasks)
    assert (await asyncio.wait_for(asking, 10)).status == 200
    await app.state.first_reads.flush()
    advance(app, READ + 1)

    assert await purge(app) == 1


async def test_looking_at_a_task_before_it_ends_is_no_read(app: App) -> None:
    (task,) = await submitted(app)
    for reading in (read_view, read_answer, read_plainly):
        await reading(app, task)
    worker = await joined(app)
    await worker.succeed(*await worker.take(1))
    await app.state.first_reads.flush()
    advance(app, READ + 1)

    assert await purge(app) == 0


async def test_reads_are_written_many_at_once(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_reads, "PIECE", 4)
    tasks = await succeeded(app, 10)
    for task in tasks:
        await read_view(app, task)
    written: list[int] = []
    note = app.state.store.note_read

    async def noting(numbers: Any, *, now: float) -> None:
        written.append(len(numbers))
        await note(numbers, now=now)

    monkeypatch.setattr(app.state.store, "note_read", noting)

    await app.state.first_reads.flush()
    await app.state.first_reads.flush()

    assert written == [4, 4, 2]


async def test_what_was_read_is_written_when_the_server_stops(tmp_path: Path) -> None:
    async with application(tmp_path, **SETTINGS) as app:
        (task,) = await succeeded(app)
        await read_view(app, task)
    async with application(tmp_path, **SETTINGS) as app:
        advance(app, READ + 1)

        assert await purge(app) == 1


async def test_what_is_kept_until_read_goes_after_it(app: App) -> None:
    first, second = (await succeeded(app, keep="until_read"))[0], (await succeeded(app))[0]
    await read_view(app, first)
    await app.state.first_reads.flush()
    advance(app, 60)
    assert await status(app, first) == 200, "a reply may be lost"
    await app.state.first_reads.flush()

    advance(app, 700)

    assert await purge(app) == 1
    assert (await status(app, first), await status(app, second)) == (410, 200)


async def test_a_tasks_own_keep_is_kept(app: App) -> None:
    short = (await succeeded(app, keep=5))[0]
    long = (await succeeded(app, keep=5000))[0]
    advance(app, 6)

    assert await purge(app) == 1
    assert (await status(app, short), await status(app, long)) == (410, 200)
    advance(app, UNREAD)
    assert await purge(app) == 0


# ---- batches


@pytest.mark.parametrize("order", ["submitted", "finished"])
async def test_a_stream_passes_over_what_is_no_longer_kept(app: App, order: str) -> None:
    tasks = await succeeded(app, 6)
    batch = (await app.ask("GET", f"/v1/tasks/{tasks[0]}", token="admin")).json["batch"]
    for index in (0, 2, 3, 5):
        await app.ask("DELETE", f"/v1/tasks/{tasks[index]}")

    reply = await asyncio.wait_for(app.ask("GET", f"/v1/batches/{batch}/answers?order={order}"), 10)

    lines = [json.loads(line) for line in reply.body.splitlines()]
    assert [line["index"] for line in lines] == [1, 4]
    counts = (await app.ask("GET", f"/v1/batches/{batch}")).json["counts"]
    assert counts["succeeded"] == 6


async def test_a_stream_that_waits_for_what_is_purged_meanwhile_goes_on(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.server.service.answers.LOOK_SECONDS", 0.05)
    first, _ = await submitted(app, 2)
    batch = (await app.ask("GET", f"/v1/tasks/{first}")).json["batch"]
    following = asyncio.ensure_future(app.ask("GET", f"/v1/batches/{batch}/answers"))
    worker = await joined(app, slots=2)
    leased = sorted(await worker.take(2), key=lambda task: task["args"][0])
    await worker.succeed(leased[1])
    tell = app.state.store.on_ended
    app.state.store.on_ended = lambda ended: None  # as on a server that hears nothing of it
    await worker.succeed(leased[0])
    assert (await app.ask("DELETE", f"/v1/tasks/{first}")).status == 200
    app.state.store.on_ended = tell

    reply = await asyncio.wait_for(following, 20)

    assert [json.loads(line)["index"] for line in reply.body.splitlines()] == [1]


# ---- history


async def test_what_it_came_to_before_a_retry_is_told(app: App) -> None:
    (task,) = await submitted(app)
    worker = await joined(app)
    (leased,) = await worker.take(1)
    error = {"kind": "exception", "type": "ValueError", "message": "no"}
    await worker.exchange(reports=[{"lease": leased["lease"], "outcome": "failed", "error": error}])
    await app.ask("POST", f"/v1/tasks/{task}/retry")
    await app.ask("POST", f"/v1/tasks/{task}/cancel")
    await app.ask("POST", f"/v1/tasks/{task}/retry")

    told = (await app.ask("GET", f"/v1/tasks/{task}/history")).json

    assert told["id"] == task
    first, second = told["history"]
    assert (first["generation"], first["state"], first["attempt"]) == (0, "failed", 1)
    assert first["error"]["type"] == "ValueError"
    assert first["started_at"] <= first["ended_at"]
    assert (second["generation"], second["state"]) == (1, "cancelled")
    assert "error" not in second
    await app.refused(404, "GET", f"/v1/tasks/{task}/history", token="other")


# ---- the loop


async def test_pruning_leaves_most_of_the_time_to_others(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await succeeded(app, 5)
    advance(app, UNREAD)
    monkeypatch.setattr(prune, "PIECE", 1)
    purge_some, pauses = app.state.store.purge, []

    async def slowly(*args: Any, **options: Any) -> int:
        await asyncio.sleep(0.05)
        return await purge_some(*args, **options)

    async def pause(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(app.state.store, "purge", slowly)

    assert await Pruner(app.state, sleep=pause).purge() == 5

    assert sum(each >= 4 * 0.05 for each in pauses) == 5
    assert min(pauses) >= prune.SHORTEST_PAUSE


async def test_no_more_than_so_much_is_purged_in_a_minute(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    await succeeded(app, 7)
    advance(app, UNREAD)
    monkeypatch.setattr(prune, "PIECE", 1)
    monkeypatch.setattr(prune, "PIECES_A_MINUTE", 3)
    long: list[float] = []

    async def pause(seconds: float) -> None:
        if seconds > prune.LONGEST_PAUSE:
            long.append(seconds)

    assert await Pruner(app.state, sleep=pause).purge() == 7

    assert len(long) == 2 and all(50 < each <= 60 for each in long)


async def test_the_loop_prunes_where_this_server_leads_and_nowhere_else(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    (task,) = await succeeded(app)
    advance(app, UNREAD)
    begin, done = asyncio.Semaphore(0), asyncio.Semaphore(0)
    leads = False

    async def leading() -> bool:
        return leads

    async def pause(seconds: float) -> None:
        if seconds == prune.PASS_SECONDS:
            done.release()
            await begin.acquire()

    async def one_round() -> None:
        begin.release()
        await asyncio.wait_for(done.acquire(), 20)

    monkeypatch.setattr(app.state.store, "leads", leading)
    monkeypatch.setattr(prune, "TIDY_SECONDS", 0.0)
    loop = asyncio.ensure_future(Pruner(app.state, sleep=pause).run())
    await done.acquire()
    try:
        await one_round()
        assert await status(app, task, token="admin") == 200

        leads = True
        await one_round()
        assert await status(app, task, token="admin") == 410
    finally:
        loop.cancel()


async def test_failed_tasks_are_kept_for_their_own_time(app: App) -> None:
    (task,) = await submitted(app)
    await app.ask("POST", f"/v1/tasks/{task}/cancel")
    await read_view(app, task)
    await app.state.first_reads.flush()
    advance(app, FAILED - 1)
    assert await purge(app) == 0

    advance(app, 2)

    assert await purge(app) == 1
