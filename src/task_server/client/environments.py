"""Environments ordered ahead of their tasks, and how far the workers are with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Struct

from task_server.client import requests
from task_server.client.session import LONGEST_WAIT, Session
from task_server.errors import NotFinished, TaskFailed

PAUSE_SECONDS = 0.5


class WorkerState(Struct, frozen=True):
    """How far one worker is with an environment."""

    id: str
    name: str
    state: str
    """waiting, building, importing, ready or failed."""
    log: str = ""
    """Of a failure."""
    ordered: bool = False
    """It is to have it ready."""


class _Shown(Struct):
    environment: str | None
    workers: list[WorkerState]
    error: str | None = None


class Preparation:
    """An environment that workers are to have ready. Made by `Client.prepare`."""

    def __init__(self, session: Session, body: bytes) -> None:
        self._session = session
        self.environment: str | None = None
        """Its digest."""
        self.workers: list[WorkerState] = []
        """Those that are to have it, as of the last look."""
        self._error: str | None = None
        while self.environment is None and self._error is None:
            request = requests.order_environment(body, wait=LONGEST_WAIT)
            self._take(requests.value_of(session.send(request, wait=LONGEST_WAIT), _Shown))

    @property
    def is_over(self) -> bool:
        """Whether each of the workers has come to its end; also when there is none yet."""
        states = {each.state for each in self.workers}
        return self._error is not None or states <= {"ready", "failed"}

    @property
    def problem(self) -> str:
        """What went wrong, with the log of each worker where it did; empty if nothing has."""
        failed = [each for each in self.workers if each.state == "failed"]
        return self._error or "\n".join(f"{each.name}: {each.log}" for each in failed)

    def refresh(self) -> None:
        """Look how far the workers are."""
        if self.environment is not None:
            reply = self._session.send(requests.read_environment(self.environment))
            self._take(requests.value_of(reply, _Shown))

    def wait(
        self,
        timeout: float | None = None,
        *,
        on_news: Callable[[WorkerState], None] = lambda worker: None,
    ) -> Preparation:
        """Wait until all workers have it; those that join later are not waited for.

        `on_news` gets each worker whose state has changed. Raises TaskFailed with the logs if it
        failed on any, NotFinished after `timeout` seconds.
        """
        end = None if timeout is None else self._session.clock() + timeout
        seen: dict[str, WorkerState] = {}
        while True:
            self.refresh()
            for worker in self.workers:
                if seen.get(worker.id) != worker:
                    seen[worker.id] = worker
                    on_news(worker)
            if self.is_over:
                break
            if end is not None and self._session.clock() >= end:
                raise NotFinished("not all workers have the environment yet; they go on")
            self._session.sleep(PAUSE_SECONDS)
        if self.problem:
            raise TaskFailed(self.problem, kind="environment")
        return self

    def _take(self, shown: _Shown) -> None:
        self.environment, self._error = shown.environment, shown.error
        self.workers = [each for each in shown.workers if each.ordered]

    def __repr__(self) -> str:
        return f"<Preparation of {self.environment}>"


def order_body(
    *,
    package: str | Sequence[str] | None,
    version: str | None,
    python: str | None,
    environment: str | None,
    modules: Sequence[str],
    labels: Mapping[str, str],
    keep: float | None,
) -> bytes:
    """The body that orders an environment."""
    asked = {
        "package": package if package is None or isinstance(package, str) else list(package),
        "version": version,
        "python": python,
        "environment": environment,
        "modules": list(modules),
        "labels": dict(labels),
        "keep": keep,
    }
    return msgspec.json.encode({name: value for name, value in asked.items() if value is not None})
