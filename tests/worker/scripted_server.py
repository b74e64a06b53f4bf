"""A server as a worker sees it: it does what a test says, and keeps what it hears."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from urllib.parse import unquote

from task_server.environments.lock import empty_lock
from tests.client.raw_server import Link, raw_server

WAIT_SECONDS = 20.0


class Response(NamedTuple):
    """What is replied to a request."""

    status: int
    body: bytes
    media_type: str = "application/json"

    def as_http(self) -> bytes:
        """Its bytes."""
        head = f"HTTP/1.1 {self.status} -\r\nContent-Type: {self.media_type}\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


Decide = Callable[[dict[str, Any]], Response | None]


class ScriptedServer:
    """Deals `tasks`; `decide(exchange)` may answer in another way, None leaves it as it is."""

    def __init__(self) -> None:
        self.url = ""
        self.tasks: list[dict[str, Any]] = []
        """Dealt with the next exchange of the newest session that wants any."""
        self.extra: dict[str, Any] = {}
        """Put into the next reply, such as `stop`."""
        self.decide: Decide = lambda exchange: None
        self.join_status = 200
        self.blob_statuses: list[int] = []
        """Statuses of the next uploads."""
        self.blobs: dict[str, bytes] = {}
        self.joins: list[dict[str, Any]] = []
        self.exchanges: list[dict[str, Any]] = []
        self.reports: list[dict[str, Any]] = []
        """Of exchanges that were answered."""
        self.lease_seconds = 6.0
        self.takes_reports = asyncio.Event()
        """While it is not set, exchanges with reports are under way and get no reply."""
        self.takes_reports.set()
        self._numbers = 0
        self._news = asyncio.Event()

    # ---- what a test does

    def task(self, function: object, *args: object, **fields: Any) -> str:
        """Another task to deal; gives its lease."""
        self._numbers += 1
        lease = f"{self._numbers:x}.1.{'0' * 32}"
        self.tasks.append(
            {
                "id": f"task {self._numbers}",
                "lease": lease,
                "owner": "1",
                "function": function,
                "environment": empty_lock("3.11").digest,
                "attempt": 1,
                "args": list(args),
                "kwargs": {},
                **fields,
            }
        )
        self._news.set()
        return lease

    def tell(self, **extra: Any) -> None:
        """Say this in the next reply, at once."""
        self.extra.update(extra)
        self._news.set()

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait until it is true."""
        async with asyncio.timeout(WAIT_SECONDS):
            while not happened():  # noqa: ASYNC110  # what a test waits for is told in many ways
                await asyncio.sleep(0.01)

    async def reported(self, *leases: str) -> list[dict[str, Any]]:
        """The reports of these, once they are there."""
        await self.until(lambda: set(leases) <= {each["lease"] for each in self.reports})
        return [next(r for r in self.reports if r["lease"] == lease) for lease in leases]

    async def joined(self, times: int = 1) -> None:
        """Wait until the worker is there and has asked for tasks."""
        await self.until(lambda: len(self.joins) >= times and self.exchanges)

    def held(self, exchange: dict[str, Any]) -> set[str] | None:
        """The leases that an exchange lists."""
        return None if "held" not in exchange else {each["lease"] for each in exchange["held"]}

    # ---- what the worker hears

    @property
    def _session(self) -> str:
        """The newest: an older one is of a worker that died, whatever it left parked."""
        return f"session {len(self.joins)}"

    async def talk(self, link: Link) -> None:
        """Answer the requests of one connection."""
        while True:
            head, _, body = (await link.hear()).partition(b"\r\n\r\n")
            method, path, _ = head.decode().split(" ", 2)
            response = await self._respond(method, unquote(path), body)
            await link.say(response.as_http())

    async def _respond(self, method: str, path: str, body: bytes) -> Response:
        if path == "/v1/workers":
            return self._join(json.loads(body))
        if path.endswith("/exchange"):
            return await self._exchange(json.loads(body))
        name = path.removeprefix("/v1/blobs/")
        return self._put_blob(name, body) if method == "PUT" else self._get_blob(name)

    def _join(self, asked: dict[str, Any]) -> Response:
        self.joins.append(asked)
        if self.join_status != 200:
            code = "unavailable" if self.join_status == 503 else "forbidden"
            return problem(self.join_status, code)
        told = {"worker": "worker 1", "session": self._session, "protocol": 1}
        seconds = {"lease_seconds": self.lease_seconds, "renew_seconds": self.lease_seconds / 3}
        return Response(200, json.dumps(told | seconds).encode())

    async def _exchange(self, asked: dict[str, Any]) -> Response:
        self.exchanges.append(asked)
        newest = len(self.exchanges)
        other = self.decide(asked)
        if other is not None:
            return other
        reports = asked.get("reports", [])
        if reports:
            await self.takes_reports.wait()
        self.reports += reports
        if not reports:
            await self._park(asked, newest)
        want = asked.get("want", 0) if asked["session"] == self._session else 0
        dealt, self.tasks = self.tasks[:want], self.tasks[want:]
        extra, self.extra = self.extra, {}
        decisions = [{"lease": each["lease"], "status": 200} for each in reports]
        told = {"number": asked["number"], "decisions": decisions, "tasks": dealt, **extra}
        return Response(200, json.dumps(told).encode())

    async def _park(self, asked: dict[str, Any], newest: int) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + asked.get("wait", 0.0)
        while loop.time() < end and len(self.exchanges) == newest:
            if self.extra or (self.tasks and asked.get("want", 0)):
                return
            await asyncio.sleep(0.005)

    def _get_blob(self, name: str) -> Response:
        data = self.blobs.get(name)
        return problem(404, "not_found") if data is None else Response(200, data)

    def _put_blob(self, name: str, data: bytes) -> Response:
        assert name == "sha256:" + hashlib.sha256(data).hexdigest()
        status = self.blob_statuses.pop(0) if self.blob_statuses else 201
        if status == 201:
            self.blobs[name] = data
            return Response(201, json.dumps({"blob": name}).encode())
        return problem(status, "too_large" if status == 413 else "unavailable")


def problem(status: int, code: str) -> Response:
    """A refusal as the server tells it."""
    told = {"type": "about:blank", "title": code, "status": status, "detail": code, "code": code}
    body = json.dumps({**told, "retryable": status == 503}).encode()
    return Response(status, body, "application/problem+json")


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    """A scripted server while the block runs."""
    server = ScriptedServer()
    async with raw_server(server.talk) as raw:
        server.url = raw.url
        yield server
