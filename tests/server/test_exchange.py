"""Exchanges over HTTP: until when they park, and what they ask for."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from task_server.server.api.exchange import TOGETHER_SECONDS
from task_server.store.sessions import ExchangeRequest, ExchangeResult
from tests.server.asgi import App, application
from tests.server.working import joined


async def parked_until(app: App, waits: list[float], *, now: float) -> list[float]:
    """Until when exchanges would park that are willing to wait so long, all of them now."""
    worker = await joined(app)
    asked: list[ExchangeRequest] = []

    async def exchange(request: ExchangeRequest) -> ExchangeResult:
        asked.append(request)
        return ExchangeResult([], [], [])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.state.store, "exchange", exchange)
        patch.setattr(app.state, "clock", lambda: now)
        for wait in waits:
            await worker.exchange(wait=wait)
    return [request.wait_until for request in asked]


async def test_long_parked_exchanges_that_end_at_about_the_same_time_end_at_once(
    tmp_path: Path,
) -> None:
    now = 1_700_000_000.125
    waits = [16.0, 16.1, 18.0, 20.0]

    async with application(tmp_path) as app:
        until = await parked_until(app, waits, now=now)

    assert until[0] == until[1]
    for each, wait in zip(until, waits, strict=True):
        assert now + wait - TOGETHER_SECONDS < each <= now + wait


async def test_an_exchange_that_waits_shortly_waits_as_long_as_it_said(tmp_path: Path) -> None:
    now = 1_700_000_000.125

    async with application(tmp_path) as app:
        until = await parked_until(app, [0.0, 0.5, 4.0], now=now)

    assert until == [now, now + 0.5, now + 4.0]


async def test_with_reports_it_waits_no_longer_than_their_decisions_may(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        worker = await joined(app)
        await app.ask("POST", "/v1/tasks", {"function": "math:sqrt", "args": [4]})
        (task,) = (await worker.exchange(want=1))["tasks"]
        report = {"lease": task["lease"], "outcome": "succeeded", "encoding": "json", "answer": 2.0}

        began = time.monotonic()
        reply = await worker.exchange(reports=[report], want=1, wait=2.0, decisions_within=0.05)

    assert 0.05 <= time.monotonic() - began < 1.5
    assert [each["status"] for each in reply["decisions"]] == [200]


async def test_what_a_lost_call_used_and_what_held_it_is_in_its_view(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        worker = await joined(app, sandbox=4)
        ids = []
        for usage in ({"run_seconds": 1.5, "sandbox": 4}, None):
            body = {"function": "math:sqrt", "args": [4], "at_most_once": True}
            ids.append((await app.ask("POST", "/v1/tasks", body)).json["id"])
            (task,) = (await worker.exchange(want=1))["tasks"]
            error = {"kind": "lost", "type": "RunnerLost", "message": "killed", "exit": -9}
            report = {"lease": task["lease"], "outcome": "crashed", "error": error}
            await worker.exchange(reports=[{**report, "usage": usage} if usage else report])

        told, untold = [(await app.ask("GET", f"/v1/tasks/{id}")).json for id in ids]

    assert (told["error"]["kind"], told["run_seconds"], told["sandbox"]) == ("lost", 1.5, 4)
    assert (untold["error"]["kind"], untold["run_seconds"], untold["sandbox"]) == (
        "lost",
        None,
        None,
    )


async def test_what_is_cancelled_unless_it_started_is_asked_for(tmp_path: Path) -> None:
    async with application(tmp_path) as app:
        worker = await joined(app)
        tasks = [{"function": "math:sqrt", "args": [n]} for n in range(3)]
        batch = (await app.ask("POST", "/v1/tasks", tasks)).json["batch"]
        leases = [task["lease"] for task in await worker.take(2)]

        await app.ask("POST", f"/v1/batches/{batch}/cancel?only=unstarted")
        told = await worker.exchange()
        unstarted = {"lease": leases[0], "outcome": "released"}
        begun = {"lease": leases[1], "outcome": "released", "usage": {}}
        decided = await worker.exchange(reports=[unstarted, begun])
        counts = (await app.ask("GET", f"/v1/batches/{batch}")).json["counts"]

    assert (sorted(told["give_back"]), told["stop"]) == (sorted(leases), [])
    assert [each["status"] for each in decided["decisions"]] == [200, 200]
    assert (counts["cancelled"], counts["queued"]) == (2, 1)
