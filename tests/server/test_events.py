"""Following how far a batch or a task is, over server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from task_server.server.administration import list_tokens, revoke_token
from task_server.server.service import events
from tests.server.asgi import App, application
from tests.server.working import joined

TASK = {"function": "math:sqrt", "args": [4]}


@pytest.fixture
async def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[App]:
    monkeypatch.setattr(events, "TICK_SECONDS", 0.01)
    async with application(tmp_path) as running:
        yield running


class Event(Struct):
    id: str
    name: str
    data: Any


class Reader:
    """Reads a stream of events while it comes."""

    def __init__(self, app: App, path: str, last: str = "", token: str = "user") -> None:
        headers = [("last-event-id", last)] if last else []
        self._text = ""
        self._news = asyncio.Event()
        self.reading = asyncio.ensure_future(
            app.follow(f"/v1/{path}/events", self._take, headers=headers, token=token)
        )

    def _take(self, piece: bytes) -> None:
        self._text += piece.decode()
        self._news.set()

    @property
    def comments(self) -> int:
        return self._text.count("\n:")

    @property
    def told(self) -> list[Event]:
        """All events so far."""
        found = []
        for block in self._text.split("\n\n")[:-1]:
            fields = dict(line.split(": ", 1) for line in block.splitlines() if line[:1] != ":")
            if "data" in fields:
                event = Event(fields["id"], fields["event"], json.loads(fields["data"]))
                found.append(event)
        return found

    async def until(self, holds: Callable[[Any], bool]) -> Any:
        """The data of the first event of which that holds."""
        return await self._when(lambda: next((e.data for e in self.told if holds(e.data)), None))

    async def beats(self, count: int) -> None:
        """Wait for so many comments."""
        await self._when(lambda: self.comments >= count)

    async def _when(self, found: Callable[[], Any]) -> Any:
        async with asyncio.timeout(20):
            while not (result := found()):
                self._news.clear()
                await self._news.wait()
        return result

    async def end(self) -> list[Event]:
        """All events, once the stream has ended."""
        assert await asyncio.wait_for(self.reading, 20) == 200
        return self.told


def counted(state: str, count: int) -> Callable[[Any], bool]:
    return lambda data: data["counts"][state] == count


def in_phase(phase: str) -> Callable[[Any], bool]:
    return lambda data: data["phase"] == phase


def anything(data: Any) -> bool:
    return True


async def submitted(app: App, count: int) -> str:
    reply = await app.ask("POST", "/v1/tasks", [TASK] * count)
    return str(reply.json["batch"])


async def test_a_batch_is_followed_from_the_queue_to_its_end(app: App) -> None:
    batch = await submitted(app, 3)
    reader = Reader(app, f"batches/{batch}")
    first = await reader.until(counted("queued", 3))
    worker = await joined(app)
    tasks = await worker.take(2)
    await reader.until(counted("running", 2))
    await worker.succeed(*tasks, seconds=0.5)
    two_done = await reader.until(counted("succeeded", 2))
    await worker.succeed(*await worker.take(1), seconds=0.5)

    told = await reader.end()

    assert [event.name for event in told] == ["progress"] * (len(told) - 1) + ["done"]
    assert first["eta"] is None  # there was no worker
    assert two_done["progress"] == pytest.approx(2 / 3)
    assert two_done["eta"]["p10"] <= two_done["eta"]["p50"] <= two_done["eta"]["p90"]
    assert two_done["core_seconds"]["p50"] > 0
    assert told[-1].data["counts"]["succeeded"] == 3 and told[-1].data["progress"] == 1.0


async def test_nothing_is_told_twice_while_nothing_changes(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    batch = await submitted(app, 2)
    reader = Reader(app, f"batches/{batch}")
    await reader.beats(3)  # so it has looked three times more
    await app.ask("POST", f"/v1/batches/{batch}/cancel")

    told = await reader.end()

    assert [event.data["counts"]["queued"] for event in told] == [2, 0]


async def test_the_end_of_a_batch_does_not_wait_for_the_next_look(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "TICK_SECONDS", 1000.0)
    batch = await submitted(app, 2)
    worker = await joined(app)
    tasks = await worker.take(2)
    reader = Reader(app, f"batches/{batch}")
    await reader.until(counted("running", 2))
    await worker.succeed(tasks[0])
    await worker.succeed(tasks[1])

    told = await reader.end()

    assert [event.name for event in told] == ["progress", "done"]


async def test_an_open_batch_is_followed_until_it_is_closed(app: App) -> None:
    batch = str((await app.ask("POST", "/v1/batches", {"expected": 4})).json["id"])
    reader = Reader(app, f"batches/{batch}")
    await reader.until(counted("queued", 0))
    await app.ask("POST", f"/v1/tasks?batch={batch}", [TASK])
    worker = await joined(app)
    await worker.succeed(*await worker.take(1))
    one_done = await reader.until(counted("succeeded", 1))
    await app.ask("POST", f"/v1/batches/{batch}/close")

    told = await reader.end()

    assert one_done["progress"] == 0.25 and one_done["open"]
    assert told[-1].name == "done" and not told[-1].data["open"]


async def test_who_comes_back_is_told_only_what_changed_since(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_SECONDS", 0.02)
    batch = await submitted(app, 1)
    before = Reader(app, f"batches/{batch}")
    await before.until(anything)
    before.reading.cancel()

    reader = Reader(app, f"batches/{batch}", last=before.told[-1].id)
    await reader.beats(2)
    told_of_the_same = reader.told
    await app.ask("POST", f"/v1/batches/{batch}/cancel")
    told = await reader.end()

    assert told_of_the_same == []
    assert [event.name for event in told] == ["done"]


async def test_who_has_seen_the_end_is_told_to_ask_no_more(app: App) -> None:
    batch = await submitted(app, 1)
    await app.ask("POST", f"/v1/batches/{batch}/cancel")
    told = await Reader(app, f"batches/{batch}").end()

    again = await app.ask(
        "GET", f"/v1/batches/{batch}/events", headers={"last-event-id": told[-1].id}
    )

    assert told[-1].name == "done"
    assert again.status == 204 and again.body == b""


async def test_a_task_is_followed_through_its_phases_to_its_end(app: App) -> None:
    task = str((await app.ask("POST", "/v1/tasks", TASK)).json["id"])
    reader = Reader(app, f"tasks/{task}")
    queued = await reader.until(lambda data: data["state"] == "queued")
    worker = await joined(app)
    (leased,) = await worker.take(1)
    await reader.until(in_phase("leased"))
    await worker.exchange(held=[{"lease": leased["lease"], "phase": "installing"}])
    await reader.until(in_phase("installing"))
    await worker.exchange(held=[{"lease": leased["lease"], "phase": "running"}])
    await reader.until(in_phase("running"))
    await worker.succeed(leased)

    told = await reader.end()

    assert queued["estimate"]["p50"] > 0
    assert told[-1].name == "done" and told[-1].data["state"] == "succeeded"
    assert told[-1].data["ended_at"] is not None
    assert "answer" not in told[-1].data


async def test_a_task_that_has_failed_says_why(app: App) -> None:
    task = str((await app.ask("POST", "/v1/tasks", TASK)).json["id"])
    worker = await joined(app)
    (leased,) = await worker.take(1)
    error = {"kind": "exception", "type": "ValueError", "message": "no"}
    await worker.exchange(reports=[{"lease": leased["lease"], "outcome": "failed", "error": error}])

    (event,) = await Reader(app, f"tasks/{task}").end()

    assert event.name == "done" and event.data["error"]["type"] == "ValueError"


async def of_both(app: App) -> list[Reader]:
    """Readers of a batch and of its task, who have been told how far those are."""
    reply = (await app.ask("POST", "/v1/tasks", [TASK])).json
    paths = [f"batches/{reply['batch']}", f"tasks/{reply['ids'][0]}"]
    readers = [Reader(app, path) for path in paths]
    for reader in readers:
        await reader.until(anything)
    return readers


async def test_streams_end_when_the_server_stops(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "TICK_SECONDS", 1000.0)
    readers = await of_both(app)
    app.state.waiting.close()

    for reader in readers:
        assert [event.name for event in await reader.end()] == ["progress"]


async def test_streams_end_when_their_token_is_revoked(app: App) -> None:
    readers = await of_both(app)
    url = app.state.settings.database_url
    revoke_token(url, next(each for each in list_tokens(url) if each.name == "one").id)

    for reader in readers:
        assert [event.name for event in await reader.end()] == ["progress"]


async def test_others_batches_and_tasks_are_not_there(app: App) -> None:
    reply = (await app.ask("POST", "/v1/tasks", [TASK], token="other")).json

    await app.refused(404, "GET", f"/v1/batches/{reply['batch']}/events")
    await app.refused(404, "GET", f"/v1/tasks/{reply['ids'][0]}/events")
    await app.refused(422, "GET", f"/v1/tasks/{reply['ids'][0]}/events?wait=1", token="other")
    await app.refused(401, "GET", f"/v1/tasks/{reply['ids'][0]}/events", token=None)
