"""What is kept free for tasks by what their function took, over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.server.asgi import App, application
from tests.server.working import Worker, joined

TASKS = "/v1/tasks"
GIB = 2**30
HAS: dict[str, Any] = {"slots": 2, "cpu": 2, "memory": 8 * GIB}
CALL = {"function": "len", "args": ["abc"]}


async def done(worker: Worker, *, seconds: float = 1.0, peak: int) -> None:
    (task,) = await worker.take(1)
    usage = {"run_seconds": seconds, "peak_bytes": peak}
    report = {"lease": task["lease"], "outcome": "succeeded", "encoding": "json", "answer": 3}
    await worker.exchange(reports=[{**report, "usage": usage}])


async def submitted(app: App, **fields: Any) -> str:
    reply = await app.ask("POST", TASKS, {**CALL, **fields})
    assert reply.status == 202, reply.body
    task: str = reply.json["id"]
    return task


async def explained(app: App, task: str) -> dict[str, Any]:
    told: dict[str, Any] = (await app.ask("GET", f"{TASKS}/{task}/explain")).json
    return told


async def test_memory_is_kept_free_by_what_calls_of_the_function_took(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        worker = await joined(app, **HAS)
        await submitted(app)
        await done(worker, peak=5 * GIB)

        await submitted(app)
        waiting = await submitted(app)
        running = await worker.take(2)
        told = await explained(app, waiting)

    assert [task["limits"] for task in running] == [{"reserved": 8 * GIB}]
    assert told["workers"]["lacks"] == {"free_memory": 1}
    assert told["summary"].startswith("waiting: 0 of 1 worker has 8 GiB free")
    (kept,) = (each for each in told["reasons"] if each["code"] == "memory")
    assert "8 GiB of memory are kept free" in kept["message"]


async def test_nothing_is_kept_for_short_functions_nor_for_little_memory(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        worker = await joined(app, **HAS)
        await submitted(app)
        await done(worker, seconds=0.001, peak=5 * GIB)
        await submitted(app, function="str")
        await done(worker, peak=2**26)

        await submitted(app)
        await submitted(app, function="str")
        running = await worker.take(2)

    assert len(running) == 2 and not any("limits" in task for task in running)


async def test_it_can_be_turned_off(tmp_path: Path) -> None:
    async with application(tmp_path, reserve_memory="off") as app:
        worker = await joined(app, **HAS)
        await submitted(app)
        await done(worker, peak=5 * GIB)

        await submitted(app)
        task = await submitted(app)
        running = await worker.take(2)
        told = await explained(app, task)

    assert len(running) == 2 and "limits" not in running[0]
    assert "memory" not in [each["code"] for each in told["reasons"]]
