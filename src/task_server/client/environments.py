"""Environments ordered ahead of their tasks, and how far the workers are with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
from msgspec import Struct

from task_server.client import requests
from task_server.client.session import Session
from task_server.errors import NotFinished, TaskFailed

PAUSE_SECONDS = 0.5
LOCK_SECONDS = 2.0
"""How long one request waits for the lock."""


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
    waits_for: str | None = None


class Preparation:
    """An environment that workers are to have ready. Made by `Client.prepare`."""

    def __init__(self, session: Session, body: bytes) -> None:
        self._session = session
        self._body = body
        self.environment: str | None = None
        """Its digest; None until it is locked."""
        self.waits_for: str | None = None
        """Why it is not locked yet, such as an index that is away."""
        self.workers: list[WorkerState] = []
        """Those that were there and meant when it was ordered, as of the last look."""
        self._meant: set[str] = set()
        self._error: str | None = None
        self._order(0.0)

    @property
    def is_over(self) -> bool:
        """Whether each of the workers has come to its end; also when there is none yet."""
        states = {each.state for each in self.workers}
        is_locked = self.environment is not None
        return self._error is not None or (is_locked and states <= {"ready", "failed"})

    @property
    def problem(self) -> str:
        """What went wrong, with the log of each worker where it did; empty if nothing has."""
        failed = [each for each in self.workers if each.state == "failed"]
        return self._error or "\n".join(f"{each.name}: {each.log}" for each in failed)

    def refresh(self) -> None:
        """Look how far it is."""
        if self.environment is not None:
            reply = self._session.send(requests.read_environment(self.environment))
            self._take(requests.value_of(reply, _Shown))  # of all orders of that environment
        elif self._error is None:
            self._order(LOCK_SECONDS)

    def _order(self, wait: float) -> None:
        request = requests.order_environment(self._body, wait=wait)
        shown = requests.value_of(self._session.send(request, wait=wait), _Shown)
        self._meant = {each.id for each in shown.workers}
        self._take(shown)

    def wait(
        self,
        timeout: float | None = None,
        *,
        on_news: Callable[[WorkerState], None] = lambda worker: None,
        on_waiting: Callable[[str], None] = lambda reason: None,
    ) -> Preparation:
        """Wait until all workers have it; those that join later are not waited for.

        `on_news` gets each worker whose state has changed, `on_waiting` what holds up the lock.
        Raises TaskFailed with the logs if it failed on any, NotFinished after `timeout` seconds.
        """
        end = None if timeout is None else self._session.clock() + timeout
        seen: dict[str, WorkerState] = {}
        reason: str | None = None
        while True:
            if self.waits_for is not None and self.waits_for != reason:
                on_waiting(self.waits_for)
            reason = self.waits_for
            self.refresh()
            self._tell(seen, on_news)
            if self.is_over:
                break
            if end is not None and self._session.clock() >= end:
                raise NotFinished("not all workers have the environment yet; it goes on")
            self._session.sleep(PAUSE_SECONDS)
        if self.problem:
            raise TaskFailed(self.problem, kind="environment")
        return self

    def _tell(self, seen: dict[str, WorkerState], on_news: Callable[[WorkerState], None]) -> None:
        for worker in self.workers if self.environment is not None else ():
            if seen.get(worker.id) != worker:
                seen[worker.id] = worker
                on_news(worker)

    def _take(self, shown: _Shown) -> None:
        self.environment, self._error = shown.environment, shown.error
        self.waits_for = shown.waits_for
        workers = [each for each in shown.workers if each.ordered]
        self.workers = [each for each in workers if each.id in self._meant]

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
