"""What fits until a moment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.server.asgi import App, application
from tests.server.working import joined

TASK = {"function": "math:sqrt", "args": [4]}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as running:
        now = running.state.clock()
        running.state.clock = lambda: now
        yield running


async def until(app: App, seconds: float) -> Any:
    moment = datetime.fromtimestamp(app.state.clock() + seconds, UTC).isoformat()
    return (await app.ask("GET", f"/v1/capacity?finish_by={moment}")).json


async def test_an_idle_fleet_has_all_its_slots_free(app: App) -> None:
    await joined(app, slots=3)

    told = await until(app, 100.0)

    assert told["slots"] == 3 and told["core_seconds"] == pytest.approx(300.0)
    assert told["free"]["p50"] == pytest.approx(300.0)
    assert told["slots_needed"] == {"p50": 0, "p90": 0}
    assert told["eta"]["p90"] == 0.0


async def test_what_waits_takes_its_part(app: App) -> None:
    worker = await joined(app, slots=2)
    for _ in range(20):
        await app.ask("POST", "/v1/tasks", TASK)
        await worker.succeed(*await worker.take(1), seconds=1.0)
    await app.ask("POST", "/v1/tasks", [TASK] * 100, token="other")

    told = await until(app, 10.0)

    assert told["queued"]["p50"] == pytest.approx(100.0, rel=0.1)
    assert told["free"]["p10"] < told["free"]["p50"] == pytest.approx(-80.0, rel=0.15)
    assert told["eta"]["p50"] == pytest.approx(50.0, rel=0.1)
    assert 9 <= told["slots_needed"]["p50"] <= told["slots_needed"]["p90"] <= 13
    assert told["unknown_tasks"] == 0


async def test_what_is_longer_than_the_time_left_cannot_be_done(app: App) -> None:
    worker = await joined(app, slots=2)
    await app.ask("POST", "/v1/tasks", TASK)
    await worker.succeed(*await worker.take(1), seconds=100.0)
    await app.ask("POST", "/v1/tasks", TASK)

    told = await until(app, 10.0)

    assert told["slots_needed"] == {"p50": None, "p90": None}


async def test_without_workers_it_says_how_many_are_needed(app: App) -> None:
    await app.ask("POST", "/v1/tasks", [TASK] * 29)

    told = await until(app, 10.0)

    assert told["slots"] == 0 and told["eta"] is None
    assert told["unknown_tasks"] == 29 and told["slots_needed"]["p50"] == 3


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?finish_by=",
        "?finish_by=soon",
        "?finish_by=2030-01-31T18:00:00",
        "?finish_by=2001-01-31T18:00:00Z",
        "?finish_by=9999-01-31T18:00:00Z",
        "?finish_by=2030-01-31T18:00:00Z&slots=3",
    ],
)
async def test_what_is_no_time_to_come_is_refused(app: App, query: str) -> None:
    reply = await app.refused(422, "GET", f"/v1/capacity{query}")

    assert reply.fields == [["finish_by"], ["slots"]]["slots" in query]
