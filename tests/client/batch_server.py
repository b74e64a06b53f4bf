"""A transport that plays the part of a server for open batches: it takes tasks and streams ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from task_server.client.requests import Reply, Request
from task_server.errors import ServerUnreachable
from tests.client.scripted import ESTIMATE, problem, reply, view

SECONDS = 20.0
Refusal = Callable[[list[dict[str, Any]]], Reply | None]


class BatchServer:
    """Tasks end when `end` says so, or at once: each with its first argument as the answer."""

    url = "http://scripted"

    def __init__(self, *, answers_at_once: bool = True) -> None:
        self.changed = threading.Condition()
        self.requests: list[Request] = []
        self.submits: list[list[dict[str, Any]]] = []
        """The tasks of each submit that was accepted, with the defaults in them."""
        self.refuse: Refusal = lambda tasks: None
        self.gate = threading.Event()
        """Submits wait for it."""
        self.gate.set()
        self._answers_at_once = answers_at_once
        self._open: dict[str, bool] = {}
        self._lines: list[bytes] = []
        self.breaks_after: int | None = None
        """Lines after which a stream is cut, once."""
        self.is_away = False
        """Nobody can look at a task."""
        self.has_purged = False
        """Tasks are past their retention."""
        self._breaks = 0

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """All tasks taken, in order."""
        return [task for submit in self.submits for task in submit]

    def end(self, task: dict[str, Any], **fields: Any) -> None:
        """Let a task end."""
        with self.changed:
            told = {
                "index": len(self._lines),
                "id": task["id"],
                "state": "succeeded",
                "cursor": str(len(self._lines) + 1),
            }
            if not fields:
                fields = {"encoding": "json", "answer": task["args"][0]}
            self._lines.append(json.dumps(told | fields).encode() + b"\n")
            self.changed.notify_all()

    def until(self, happened: Callable[[], object]) -> None:
        """Wait until it is true of what this server has seen."""
        with self.changed:
            assert self.changed.wait_for(happened, timeout=SECONDS)

    def break_streams(self) -> None:
        """Cut the streams of answers."""
        with self.changed:
            self._breaks += 1
            self.changed.notify_all()

    def paths(self, method: str, start: str) -> list[str]:
        """The paths asked for that begin so."""
        return [
            request.path
            for request in self.requests
            if request.method == method and request.path.startswith(start)
        ]

    def close_batches(self) -> None:
        """As somebody may do from the command line."""
        with self.changed:
            self._open = dict.fromkeys(self._open, False)
            self.changed.notify_all()

    def request(self, request: Request, *, timeout: float) -> Reply:
        with self.changed:
            self.requests.append(request)
            self.changed.notify_all()
        parts = urlsplit(request.path)
        if request.method == "POST" and parts.path == "/v1/tasks":
            return self._submit(request, parse_qs(parts.query)["batch"][0])
        with self.changed:
            return self._other(request, parts.path)

    def upload(self, request: Request, path: Path, *, timeout: float) -> Reply:
        raise AssertionError("nothing uploads a file here")

    def stream(self, request: Request, *, timeout: float) -> AnswerStream:
        with self.changed:
            self.requests.append(request)
        query = parse_qs(urlsplit(request.path).query)
        batch = urlsplit(request.path).path.split("/")[3]
        return AnswerStream(self, batch, int(query.get("cursor", ["0"])[0]))

    def close(self) -> None:
        pass

    def _submit(self, request: Request, batch: str) -> Reply:
        assert self.gate.wait(SECONDS)
        body = json.loads(request.body or b"")
        tasks = [{**body.get("defaults", {}), **task} for task in body["tasks"]]
        with self.changed:
            if not self._open[batch]:
                return problem(409, "conflict", "the batch is closed")
            refusal = self.refuse(tasks)
            if refusal is not None:
                return refusal
            self.submits.append(tasks)
            self.changed.notify_all()
        if self._answers_at_once:
            for task in tasks:
                self.end(task)
        ids = [task["id"] for task in tasks]
        told = {"batch": batch, "ids": ids, "duplicate": False, "estimate": ESTIMATE}
        return reply(202, told)

    def _other(self, request: Request, path: str) -> Reply:
        parts = path.split("/")
        if path == "/v1/batches":
            self._open[json.loads(request.body or b"")["id"]] = True
        elif parts[-1] == "close":
            self._open[parts[3]] = False
            self.changed.notify_all()
        elif parts[2] == "tasks" and parts[-1] == "cancel":
            (task,) = (task for task in self.tasks if task["id"] == parts[3])
            self.end(task, state="cancelled")
        elif parts[2] == "tasks" and self.is_away:
            raise ServerUnreachable("away")
        elif parts[2] == "tasks" and self.has_purged:
            return problem(410, "gone")
        elif parts[2] == "tasks":
            return reply(200, view(parts[3], state="queued"))
        elif parts[2] == "batches" and request.method == "GET":
            counts: dict[str, int] = {}
            zero = {"p10": 0.0, "p50": 0.0, "p90": 0.0}
            told = {"id": parts[3], "name": None, "open": self._open[parts[3]], "total": 0}
            rest = {"expected": None, "counts": counts, "progress": 0.0, "core_seconds": zero}
            return reply(200, told | rest | {"eta": None})
        return reply(200, {})

    def pieces(self, batch: str, start: int) -> Iterator[bytes]:
        """Lines from `start` on as they come, until the batch is closed and all were told."""
        while lines := self._lines_from(batch, start):
            cut, self.breaks_after = self.breaks_after, None
            yield b"".join(lines[:cut])
            if cut is not None:
                return
            start += len(lines)

    def _lines_from(self, batch: str, start: int) -> list[bytes]:
        with self.changed:
            breaks = self._breaks

            def is_over() -> bool:
                return breaks < self._breaks or not self._open[batch]

            self.changed.wait_for(lambda: len(self._lines) > start or is_over(), timeout=SECONDS)
            return self._lines[start:]


class AnswerStream:
    """One reading of a batch's answers."""

    status = 200
    headers: Mapping[str, str] = {}

    def __init__(self, server: BatchServer, batch: str, start: int) -> None:
        self._pieces = server.pieces(batch, start)

    def __enter__(self) -> AnswerStream:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces
