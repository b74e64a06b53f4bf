"""Drives the server's application without a socket, and looks hard at every refusal."""

from __future__ import annotations

import json
import logging
import re
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from msgspec import Struct

from task_server.server import http
from task_server.server.administration import create_token
from task_server.server.app import running
from task_server.server.request import Request
from task_server.server.routing import Edge
from task_server.server.state import State
from task_server.settings import ServerSettings

JSON = {"content-type": "application/json"}
_LEAKS = re.compile(
    r"Traceback|File \"|\.py\b|/tmp/|/var/|site-packages|SELECT |INSERT |UPDATE |sqlite",
)


class Reply(Struct):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float
    pieces_read: int
    """How much of the request's body was asked for."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The error's code, on either API."""
        found = self.json
        return str(found["error"]["code"] if "error" in found else found["code"])

    @property
    def fields(self) -> list[object]:
        """The fields that a refusal on `/v1` names."""
        return [each.get("field") for each in self.json["errors"]]

    @property
    def text(self) -> str:
        """What it says to people."""
        found = self.json
        return str(found["error"]["message"] if "error" in found else found["detail"])


class App:
    """A running application, tokens for it, and its database."""

    def __init__(self, state: State, edge: Edge) -> None:
        self.state = state
        self.edge = edge
        url = state.settings.database_url
        self.tokens = {
            "user": create_token(url, kind="user", name="one"),
            "other": create_token(url, kind="user", name="two"),
            "worker": create_token(url, kind="worker", name="w"),
            "other worker": create_token(url, kind="worker", name="x"),
            "admin": create_token(url, kind="admin", name="a"),
        }
        self._database = sqlite3.connect(
            f"file:{url.removeprefix('sqlite:///')}?mode=ro", uri=True, check_same_thread=False
        )

    def stored(self) -> int:
        """How many tasks, batches and keys there are."""
        counts = "SELECT count(*) FROM tasks UNION ALL SELECT count(*) FROM batches"
        counts += " UNION ALL SELECT count(*) FROM submit_keys"
        return sum(row[0] for row in self._database.execute(counts))

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | str | object = b"",
        *,
        token: str | None = "user",
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = JSON,
        pieces: Iterable[bytes] | None = None,
        host: str | None = "127.0.0.1",
    ) -> Reply:
        """Send a request as a connection would hand it over.

        `body` that is neither text nor bytes goes as JSON; `pieces` come one by one instead.
        """
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        whole = [body] if pieces is None else list(pieces)
        given = list(headers.items() if isinstance(headers, Mapping) else headers)
        names = {name.lower() for name, _ in given}
        if host is not None and "host" not in names:
            given.append(("host", host))
        if token is not None and "authorization" not in names:
            given.append(("authorization", f"Bearer {self.tokens.get(token, token)}"))
        if pieces is None and "content-length" not in names:
            given.append(("content-length", str(len(body))))
        reply = await self.send(request_of(method, target, given), whole)
        if reply.status >= 400 and method != "HEAD":
            check_refusal(target, reply)
        return reply

    async def full(
        self,
        target: str,
        body: bytes | object,
        *,
        method: str = "POST",
        headers: Mapping[str, str] = JSON,
    ) -> Reply:
        """Ask for what needs room that there is not."""
        whole = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = [*headers.items(), ("host", "127.0.0.1"), ("content-length", str(len(whole)))]
        given.append(("authorization", f"Bearer {self.tokens['user']}"))
        reply = await self.send(request_of(method, target, given), [whole])
        assert _LEAKS.search(reply.body.decode()) is None, reply.body
        return reply

    async def follow(
        self,
        target: str,
        take: Callable[[bytes], None],
        *,
        headers: Iterable[tuple[str, str]] = (),
        token: str = "user",
    ) -> int:
        """Have a reply's pieces taken as they come, until its end; gives its status."""
        given = [*headers, ("host", "127.0.0.1")]
        given.append(("authorization", f"Bearer {self.tokens[token]}"))
        reply = await self.edge(request_of("GET", target, given))
        async for piece in pieces_of(reply):
            take(piece)
        return reply.status

    async def send(self, request: Request, whole: list[bytes]) -> Reply:
        """Have it answered; the body comes piece by piece, as it is read."""
        left = deque(whole)

        def come() -> None:
            while left:
                request.add(left.popleft())
                if request._news is None or request._news.done():
                    break  # the reader has as much as it waits for
            if not left:
                request.complete()

        request.on_read = come
        come()
        begun = time.process_time()  # of the processor: other programs may crowd the machine
        reply = await self.edge(request)
        pieces = [piece async for piece in pieces_of(reply)]
        body = b"" if request.method == "HEAD" else b"".join(pieces)
        seconds = time.process_time() - begun
        headers = {name.decode(): value.decode() for name, value in reply.headers}
        headers["content-type"] = reply.content_type.decode()
        if reply.size is not None:
            headers["content-length"] = str(reply.size)
        read = len(whole) - len(left) - bool(request.waiting_bytes)
        return Reply(reply.status, headers, body, seconds, read)

    async def refused(
        self, status: int, method: str, target: str, *args: Any, **more: Any
    ) -> Reply:
        """Ask, and see that it is refused with this status and stores nothing."""
        before = self.stored()
        reply = await self.ask(method, target, *args, **more)
        assert reply.status == status, (reply.status, reply.body[:500])
        assert self.stored() == before, "something of a refused request was stored"
        return reply


def request_of(method: str, target: str, headers: list[tuple[str, str]]) -> Request:
    """A request whose body has not come."""
    path, _, query = target.partition("?")
    fields: dict[bytes, bytes] = {}
    repeated = []
    for name, value in headers:
        header = (name.lower().encode("latin-1"), value.encode("latin-1"))
        if header[0] in fields:
            repeated.append(header)
        else:
            fields[header[0]] = header[1]
    return Request(method, unquote(path), query.encode(), fields, repeated)


async def pieces_of(reply: http.Reply) -> AsyncIterator[bytes]:
    """Its body."""
    if isinstance(reply.body, bytes):
        yield reply.body
        return
    async for piece in reply.body:
        yield piece


def check_refusal(target: str, reply: Reply) -> None:
    """Every error has its API's shape and gives nothing away."""
    assert reply.status < 500, reply.body
    assert _LEAKS.search(reply.body.decode()) is None, reply.body
    assert len(reply.body) < 20_000
    told = reply.json
    if target.startswith(("/user/", "/worker/")):
        assert reply.headers["content-type"] == "application/json"
        assert told["sucsess"] is told["success"] is False
        assert set(told["error"]) == {"code", "message"} and all(told["error"].values())
        return
    assert reply.headers["content-type"] == "application/problem+json"
    assert {"type", "title", "status", "detail", "code", "retryable"} <= set(told)
    assert told["status"] == reply.status and told["detail"] and told["code"]
    assert reply.status != 422 or all(each["message"] for each in told["errors"])


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record))


@asynccontextmanager
async def application(folder: Path, **settings: Any) -> AsyncIterator[App]:
    """An application on a database of its own; the block must not leave errors in the log."""
    errors = _Errors()
    logging.getLogger("task_server").addHandler(errors)
    told = ServerSettings(data=folder, **{"ballast_bytes": 0, "model": "off", **settings})
    try:
        async with running(told, on_broken=lambda: None) as (state, edge):
            yield App(state, edge)
    finally:
        logging.getLogger("task_server").removeHandler(errors)
    assert errors.records == []
