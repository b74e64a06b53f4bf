"""The same life cycles through a server: requests of a user and exchanges of a worker."""

from __future__ import annotations

import json
import time
from typing import Any

from bench.http import Connection
from bench.line import SIZE, Rates


class HttpLine:
    """A server, a user and a worker of it, whose calls take no time."""

    def __init__(self, url: str, *, user: str, worker: str) -> None:
        self._user = Connection(url, user)
        self._worker = Connection(url, worker)
        self._number = 0
        self._path = ""
        self._session = ""
        self.single_leases: list[float] = []
        """Seconds that a worker waited for one task."""

    async def join(self) -> None:
        """Begin the worker's session."""
        facts = {"name": "bench", "protocol": [1, 1], "slots": SIZE, "pythons": ["3.11"]}
        told = json.loads(self._worker.post("/v1/workers", json.dumps(facts).encode()))
        self._session = told["session"]
        self._path = f"/v1/workers/{told['worker']}/exchange"

    async def round(self) -> Rates:
        """Submit SIZE tasks, lease as many, and finish them; then one more, alone."""
        began = time.perf_counter()
        self._submit(SIZE)
        submitted = time.perf_counter()
        dealt: list[Any] = []
        while len(dealt) < SIZE:
            dealt += self._exchange(want=SIZE - len(dealt))
        leased = time.perf_counter()
        self._exchange([_succeeded(each) for each in dealt])
        ended = time.perf_counter()
        self._lease_one()
        return Rates(
            SIZE / (submitted - began), SIZE / (leased - submitted), SIZE / (ended - leased)
        )

    def close(self) -> None:
        """Close its connections."""
        self._user.close()
        self._worker.close()

    def _lease_one(self) -> None:
        self._submit(1)
        began = time.perf_counter()
        (dealt,) = self._exchange(want=1)
        self.single_leases.append(time.perf_counter() - began)
        self._exchange([_succeeded(dealt)])

    def _submit(self, count: int) -> None:
        tasks = [{"function": "math:sqrt", "args": [4]}] * count
        self._user.post("/v1/tasks", json.dumps(tasks).encode())

    def _exchange(self, reports: list[dict[str, Any]] | None = None, want: int = 0) -> list[Any]:
        self._number += 1
        asked = {
            "session": self._session,
            "number": self._number,
            "seen": self._number - 1,
            "want": want,
            "wait": 0.0,
            "reports": reports or [],
        }
        told = json.loads(self._worker.post(self._path, json.dumps(asked).encode()))
        tasks: list[Any] = told.get("tasks", [])
        return tasks


def _succeeded(dealt: dict[str, Any]) -> dict[str, Any]:
    usage = {"run_seconds": 0.0001}
    lease = dealt["lease"]
    return {
        "lease": lease,
        "outcome": "succeeded",
        "encoding": "json",
        "answer": 2.0,
        "usage": usage,
    }
