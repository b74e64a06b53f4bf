"""Two servers on one database: one learns, the other knows what it has learned."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from task_server.server.administration import create_token
from task_server.server.app import running
from task_server.server.routing import Edge
from task_server.server.state import State
from task_server.server.upkeep import keep_model, learn
from task_server.settings import ServerSettings
from tests.server.asgi import App
from tests.server.working import joined

pytestmark = [pytest.mark.postgres, pytest.mark.timeout(90)]


class OnPostgres(App):
    """A server of a database that has several."""

    def __init__(self, state: State, edge: Edge, tokens: dict[str, str]) -> None:
        self.state = state
        self.edge = edge
        self.tokens = tokens


async def estimate(app: App) -> dict[str, Any]:
    """Of the call that these tests make."""
    body = {"function": "math:factorial", "args": [100]}
    told: dict[str, Any] = (await app.ask("POST", "/v1/estimates", body)).json["calls"][0]
    return told


async def learned(app: App, calls: int) -> None:
    """Wait until an estimate rests on so many calls that were learned from."""
    while True:
        basis = (await estimate(app))["basis"]
        if basis["model"] == "arguments" and basis["calls"] == calls:
            return
        await asyncio.sleep(0.1)


async def ran(app: App, times: int) -> None:
    """Make calls."""
    worker = await joined(app)
    for _ in range(times):
        await app.ask("POST", "/v1/tasks", {"function": "math:factorial", "args": [100]})
        await worker.succeed(*await worker.take(1), seconds=0.1)


async def test_what_the_leader_learned_is_known_at_the_other_server_and_survives_it(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keep_model, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(keep_model, "SAVED_BYTES", 1e9)
    monkeypatch.setattr(learn, "QUIET_SECONDS", 0.2)
    settings = [
        ServerSettings(data=tmp_path / name, database=database, ballast_bytes=0)
        for name in ("one", "two")
    ]
    async with AsyncExitStack() as leading, AsyncExitStack() as following:
        parts = [
            await stack.enter_async_context(running(told, on_broken=lambda: None))
            for stack, told in zip((leading, following), settings, strict=True)
        ]
        tokens = {kind: create_token(database, kind=kind, name=kind) for kind in ("user", "worker")}
        leader, other = (OnPostgres(state, edge, tokens) for state, edge in parts)
        leads = [await each.state.store.leads() for each in (leader, other)]
        await ran(leader, 6)
        await ran(other, 6)

        await learned(leader, 12)
        await learned(other, 12)
        await leading.aclose()
        await ran(other, 3)

        await learned(other, 15)

    assert leads == [True, False]
