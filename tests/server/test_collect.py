"""Blobs that no task needs: their rows go, then their content, and nothing that came again."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from task_server.server.upkeep.collect import Collector
from task_server.server.upkeep.prune import Pruner
from tests.server.asgi import App, application
from tests.server.keeping import DAY, advance, nothing
from tests.server.working import joined

BYTES = {"content-type": "application/octet-stream"}


@pytest.fixture
async def app(tmp_path: Path) -> AsyncIterator[App]:
    async with application(tmp_path) as running:
        yield running


def name_of(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


async def put(app: App, content: bytes, token: str = "user") -> str:
    name = name_of(content)
    reply = await app.ask("PUT", f"/v1/blobs/{name}", content, headers=BYTES, token=token)
    assert reply.status == 201, reply.body
    return name


def path_of(app: App, name: str) -> Path:
    digest = name.removeprefix("sha256:")
    return app.state.settings.data / "blobs" / digest[:2] / digest


def age(app: App, name: str, seconds: float) -> None:
    """Make the content one that was stored so long ago."""
    at = app.state.clock() - seconds
    os.utime(path_of(app, name), (at, at))


async def there(app: App, name: str) -> bool:
    reply = await app.ask("HEAD", f"/v1/blobs/{name}")
    return reply.status == 200


async def submit(app: App, **fields: Any) -> str:
    reply = await app.ask("POST", "/v1/tasks", {"function": "len", **fields})
    assert reply.status == 202, reply.body
    return str(reply.json["id"])


async def test_a_blob_that_nobody_needs_is_deleted_after_its_time(app: App) -> None:
    name = await put(app, b"unused")
    advance(app, DAY - 60)
    await Collector(app.state).collect()
    assert path_of(app, name).exists()
    advance(app, 120)

    await Collector(app.state).collect()

    assert not path_of(app, name).exists()
    assert not await there(app, name)


async def test_looking_whether_it_is_there_keeps_it(app: App) -> None:
    name = await put(app, b"unused")
    advance(app, DAY - 60)
    assert await there(app, name)
    advance(app, DAY - 60)

    await Collector(app.state).collect()

    assert path_of(app, name).exists()


@pytest.mark.parametrize("form", ["call", "$blob", "inside", "function", "large"])
async def test_what_a_task_needs_stays_until_the_task_goes(app: App, form: str) -> None:
    content = b"[[1,2,3],{}]" if form == "call" else b"needed"
    name = await put(app, content)
    if form == "call":
        task = await submit(app, call={"encoding": "json", "blob": name})
    elif form == "$blob":
        task = await submit(app, args=[{"x": {"$blob": name, "as": "bytes"}}])
    elif form == "inside":
        outer = await put(app, b'[[{"$blob": "%s", "as": "bytes"}],{}]' % name.encode())
        task = await submit(app, call={"encoding": "json", "blob": outer})
    elif form == "function":
        task = await submit(app, function={"pickle": name, "name": "f", "python": "3.11"})
    else:
        task = await submit(app, args=["x" * 70_000, {"$blob": name, "as": "bytes"}])
    advance(app, 5 * DAY)
    await Collector(app.state).collect()
    assert path_of(app, name).exists()
    blobs = [each async for each in app.state.blobs.listed()]
    assert len(blobs) == 1 + (form in ("inside", "large"))

    await app.ask("POST", f"/v1/tasks/{task}/cancel")
    await app.ask("DELETE", f"/v1/tasks/{task}")
    advance(app, DAY + 1)
    await Pruner(app.state, sleep=nothing).tidy()

    assert [each.name async for each in app.state.blobs.listed()] == []


async def test_a_large_answer_stays_until_its_task_goes(app: App) -> None:
    task = await submit(app, args=[[1]])
    worker = await joined(app)
    (leased,) = await worker.take(1)
    answer = b'"%s"' % (b"z" * 100_000)
    name = await put(app, answer, token="worker")
    report = {"lease": leased["lease"], "outcome": "succeeded", "encoding": "json", "blob": name}
    told = await worker.exchange(reports=[report])
    assert told["decisions"][0]["status"] == 200
    advance(app, 5 * DAY)
    await Collector(app.state).collect()

    assert (await app.ask("GET", f"/v1/tasks/{task}/answer")).body == answer

    await app.ask("DELETE", f"/v1/tasks/{task}")
    await Collector(app.state).collect()
    assert not path_of(app, name).exists()


async def test_an_answer_in_a_blob_that_is_not_there_is_refused(app: App) -> None:
    task = await submit(app, args=[[1]])
    worker = await joined(app)
    (leased,) = await worker.take(1)
    absent = name_of(b"absent")
    report = {"lease": leased["lease"], "outcome": "succeeded", "encoding": "json", "blob": absent}

    told = await worker.exchange(reports=[report])

    assert told["decisions"][0]["status"] == 422
    assert (await app.ask("GET", f"/v1/tasks/{task}")).json["state"] == "running"


@pytest.mark.parametrize("is_listed", [False, True])
async def test_arguments_must_be_there_and_ones_own(app: App, is_listed: bool) -> None:
    theirs = name_of(b"theirs")
    reply = await app.ask("PUT", f"/v1/blobs/{theirs}", b"theirs", headers=BYTES, token="other")
    assert reply.status == 201
    for name in (theirs, name_of(b"absent")):
        body: object = {"function": "len", "args": [{"$blob": name, "as": "bytes"}]}
        reply = await app.refused(422, "POST", "/v1/tasks", [body] if is_listed else body)
        assert reply.fields == ["args"]
        assert ("index" in reply.json["errors"][0]) == is_listed


async def test_text_that_looks_like_a_blobs_name_is_text(app: App) -> None:
    name = name_of(b"absent")

    real = {"$blob": await put(app, b"real"), "as": "bytes"}

    await submit(app, args=[name, f'{{"$blob": "{name}"}}', {"blob": name}, real])


async def test_content_that_nobody_has_is_deleted_once_it_is_old(app: App) -> None:
    left, young, owned = b"left behind", b"young", b"owned"
    for content in (left, young):
        await app.state.blobs.put_bytes(content)
    await put(app, owned)
    for content in (left, owned):
        age(app, name_of(content), DAY + 60)
    collector = Collector(app.state)

    await collector.retire_ownerless()
    await collector.delete()

    assert not path_of(app, name_of(left)).exists()
    assert path_of(app, name_of(young)).exists() and path_of(app, name_of(owned)).exists()


class Slow:
    """The store of blobs, whose deletions begin when they are told to."""

    def __init__(self, blobs: Any) -> None:
        self._blobs = blobs
        self.has_begun, self.may_end = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def delete(self, name: str) -> None:
        self.has_begun.set()
        await self.may_end.wait()
        await self._blobs.delete(name)


@pytest.mark.parametrize("way", ["put", "large"])
async def test_what_is_stored_again_while_it_is_deleted_is_not_lost(app: App, way: str) -> None:
    content = b'[["%s"],{}]' % (b"x" * 70_000)
    name = await put(app, content)
    advance(app, DAY + 1)
    slow = app.state.blobs = Slow(app.state.blobs)
    collecting = asyncio.ensure_future(Collector(app.state).collect())
    await asyncio.wait_for(slow.has_begun.wait(), 10)

    async def again(expected: int) -> None:
        if way == "put":
            path, body = f"/v1/blobs/{name}", content
            reply = await app.full(path, body, method="PUT", headers=BYTES)
        else:
            reply = await app.full("/v1/tasks", {"function": "len", "args": ["x" * 70_000]})
        assert reply.status == expected, reply.body

    before = app.stored()
    await again(503)
    assert app.stored() == before
    slow.may_end.set()
    await asyncio.wait_for(collecting, 10)
    await again(201 if way == "put" else 202)

    assert path_of(app, name).exists()
    assert await there(app, name)


class Lingering:
    """The store of blobs, where what has been stored is told only when it may be."""

    def __init__(self, blobs: Any) -> None:
        self._blobs = blobs
        self.has_stored, self.may_tell = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)

    async def put(self, *args: Any) -> Any:
        return await self._linger(await self._blobs.put(*args))

    async def put_bytes(self, *args: Any) -> Any:
        return await self._linger(await self._blobs.put_bytes(*args))

    async def _linger(self, stored: Any) -> Any:
        self.has_stored.set()
        await self.may_tell.wait()
        return stored


@pytest.mark.parametrize("way", ["put", "large"])
async def test_what_was_deleted_behind_an_upload_is_asked_for_again(app: App, way: str) -> None:
    content = b'[["%s"],{}]' % (b"x" * 70_000)
    name = await put(app, content)
    advance(app, DAY + 1)
    blobs = app.state.blobs
    lingering = app.state.blobs = Lingering(blobs)
    if way == "put":
        storing = app.full(f"/v1/blobs/{name}", content, method="PUT", headers=BYTES)
    else:
        storing = app.full("/v1/tasks", {"function": "len", "args": ["x" * 70_000]})
    asking = asyncio.ensure_future(storing)
    await asyncio.wait_for(lingering.has_stored.wait(), 10)
    await Collector(app.state).collect()
    assert not path_of(app, name).exists()
    before = app.stored()

    lingering.may_tell.set()
    reply = await asyncio.wait_for(asking, 10)

    assert (reply.status, reply.code) == (503, "unavailable")
    assert int(reply.headers["retry-after"]) >= 1
    assert app.stored() == before


async def test_what_is_named_while_it_is_forgotten_stays_or_is_refused(app: App) -> None:
    outcomes = set()
    for n in range(20):
        name = await put(app, b"content %d" % n)
        advance(app, DAY + 1)
        body = {"function": "len", "args": [{"$blob": name, "as": "bytes"}]}
        submitting = app.ask("POST", "/v1/tasks", body)
        reply, _ = await asyncio.gather(submitting, Collector(app.state).collect())
        outcomes.add(reply.status)
        assert reply.status in (202, 422)
        assert path_of(app, name).exists() == (reply.status == 202)
