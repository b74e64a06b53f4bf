"""A transport without a network: a function answers the requests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from task_server.client.requests import Reply, Request

ID = "01900000-0000-7000-8000-000000000001"
ESTIMATE = {
    "calls": [
        {
            "p10": 0.001,
            "p50": 0.002,
            "p90": 0.003,
            "p99": 0.005,
            "known": True,
            "basis": {"calls": 7, "model": "history", "error_factor": 1.2},
        }
    ],
    "total": {"core_seconds": {"p10": 0.001, "p50": 0.002, "p90": 0.003}, "unknown_tasks": 0},
    "eta": {"p10": 1.0, "p50": 2.0, "p90": 3.0},
}

Handler = Callable[[Request], Reply | list[bytes | Exception]]


class ScriptedTransport:
    """Hands each request to `handler`; a list is a stream of pieces, or of what breaks it."""

    url = "http://scripted"

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[Request] = []

    def request(self, request: Request, *, timeout: float) -> Reply:
        self.requests.append(request)
        reply = self._handler(request)
        assert isinstance(reply, Reply)
        return reply

    def upload(self, request: Request, path: Path, *, timeout: float) -> Reply:
        body = path.read_bytes()
        return self.request(
            Request(request.method, request.path, body, request.content_type), timeout=timeout
        )

    def stream(self, request: Request, *, timeout: float) -> ScriptedStream:
        self.requests.append(request)
        reply = self._handler(request)
        if isinstance(reply, Reply):
            return ScriptedStream(reply.status, [reply.body])
        return ScriptedStream(200, reply)

    def close(self) -> None:
        pass

    def bodies(self, method: str, start: str) -> list[Any]:
        """The JSON bodies of requests whose path begins so."""
        return [
            json.loads(request.body or b"null")
            for request in self.requests
            if request.method == method and request.path.startswith(start)
        ]


class ScriptedStream:
    def __init__(self, status: int, pieces: list[bytes] | list[bytes | Exception]) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._pieces = pieces

    def __enter__(self) -> ScriptedStream:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece


def reply(status: int, value: object, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(value).encode())


def problem(status: int, code: str, detail: str = "no", **headers: str) -> Reply:
    return reply(status, {"status": status, "code": code, "detail": detail}, **headers)


def submitted(task: str = ID) -> Reply:
    return reply(202, {"id": task, "duplicate": False, "estimate": ESTIMATE})


def view(task: str = ID, state: str = "succeeded", **fields: Any) -> dict[str, Any]:
    """A TASKVIEW."""
    return {
        "id": task,
        "batch": None,
        "state": state,
        "phase": None,
        "function": "math:factorial",
        "module": None,
        "package": None,
        "resolved": None,
        "environment": None,
        "attempt": 1,
        "generation": 0,
        "worker": None,
        "submitted_at": "2026-01-01T00:00:00Z",
        "started_at": None,
        "ended_at": None,
        "queue_seconds": None,
        "install_seconds": None,
        "run_seconds": None,
        "cpu_seconds": None,
        "peak_bytes": None,
        "sandbox": None,
        "tags": [],
        "estimate": {
            "p50": 1.0,
            "p90": 2.0,
            "known": False,
            "basis": {"calls": 0, "model": "guess", "error_factor": None},
        },
        "encoding": None,
        **fields,
    }


def succeeded(answer: object, task: str = ID) -> Reply:
    return reply(200, view(task, encoding="json", answer=answer))
