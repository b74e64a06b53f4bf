"""Sessions of workers in the store: what one says of itself, asks for and is told."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from task_server.protocol.workers import EnvironmentState, Held
from task_server.scheduling.requires import Free
from task_server.store.attempts import AttemptReport, Dealt, Decided

PLAIN_SECONDS = 120.0
"""A plain worker that has no task and has not asked for so long is not there: it waits for a task
for a minute at most."""


class WorkerFacts(Struct, frozen=True, kw_only=True):
    """What a worker says of itself when it joins."""

    name: str
    slots: int
    pythons: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    cpu: float | None = None
    memory: int | None = None
    gpu: int = 0
    platform: str = ""
    sandbox: int = 0
    version: str = ""
    is_plain: bool = False

    def free(self) -> Free | None:
        """What it has of resources while it does nothing; None for a plain worker."""
        if self.is_plain:
            return None
        return Free(
            slots=self.slots, cpu=self.cpu, memory=self.memory, gpu=self.gpu, labels=self.labels
        )


class JoinRequest(Struct):
    """A worker's join, read."""

    worker: str | None
    token: int
    facts: WorkerFacts
    session: str


class LiveSession(Struct, frozen=True):
    """A worker that is heard of."""

    worker: int
    facts: WorkerFacts
    environments: Mapping[str, str]
    """Digest -> state, of those it told about."""
    running: int
    """Tasks leased to it."""
    id: str
    """Of the worker, as it travels."""


class ExchangeRequest(Struct):
    """A worker's exchange, read."""

    worker: str
    session: str
    token: int
    """Of the caller; 0 without authentication."""
    number: int
    seen: int
    want: int
    wait_until: float
    draining: bool
    reports: list[AttemptReport]
    held: list[Held] | None
    environments: list[EnvironmentState]
    is_patient: bool = False
    """Its decisions may wait for tasks until then, too."""


UNSTARTED = "unstarted"
"""Why a lease is told of that its worker is to give back, unless its task has started."""


class ExchangeResult(Struct):
    """What the worker is told."""

    decisions: list[Decided]
    tasks: list[Dealt]
    stop: list[tuple[str, str]]
    """Lease and why; with UNSTARTED it is not to end, but asked for."""
    drain: bool = False
