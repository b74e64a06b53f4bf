"""What reads of the store give."""

from __future__ import annotations

from msgspec import Struct

from task_server.store.attempts import Used
from task_server.store.kinds import KindSpec
from task_server.store.states import Encoding, State


class TaskRow(Struct):
    """A task as its owner may see it."""

    number: int
    id: bytes
    batch: bytes | None
    spec: KindSpec
    state: State
    submitted_at: float
    predicted: float
    predicted_high: float
    attempt: int
    generation: int
    worker: str | None
    started_at: float | None
    ended_at: float | None
    encoding: Encoding | None
    outcome: bytes | None
    used: Used | None
    environment: str | None
    request_state: int
    pending: int = 0
    """How many tasks it waits for."""
    request_error: str | None = None
    """Why its environment could not be locked at the last try."""
    limit_seconds: float | None = None
    """How long its last attempt may run, where the task leaves that to the server."""
    limit_why: str | None = None


class Ended(Struct):
    """A task that came to its end, as told to whoever waits."""

    number: int
    id: bytes
    owner: int
    batch: int | None
    position: int
    state: State
    server: int
    n: int
    encoding: Encoding | None
    outcome: bytes | None
    """None: read it from the store."""
    task: TaskRow | None = None
    """The task as it is now, where somebody waits for it and it needed no look at the database."""


class AnswerRow(Struct):
    """A member of a batch that has ended, as the `n`th task of a server."""

    position: int
    id: bytes
    state: State
    server: int
    n: int
    encoding: Encoding | None
    outcome: bytes | None
    number: int = 0


class PastOutcome(Struct):
    """What a task came to before a manual retry."""

    generation: int
    attempt: int
    state: State
    encoding: Encoding | None
    outcome: bytes | None
    started_at: float | None
    ended_at: float


class BatchRow(Struct):
    """A batch and how far it is."""

    batch: int
    id: bytes
    owner: int
    name: str | None
    is_open: bool
    expected: int | None
    total: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    purged: int = 0
    """Of those that ended, how many are no longer given out."""
    in_order: bool = False
    """It starts in submit order."""
    running: int = 0
    delayed: int = 0

    @property
    def ended(self) -> int:
        """How many are done, one way or another."""
        return self.succeeded + self.failed + self.cancelled + self.expired

    @property
    def queued(self) -> int:
        """How many wait for a worker."""
        return self.total - self.ended - self.running - self.delayed


class TaskFilter(Struct):
    """Which tasks to list, newest first."""

    owner: int | None
    state: State | None = None
    function: str | None = None
    batch: bytes | None = None
    tag: str | None = None
    before: int | None = None
    """Number of the last task of the page before."""
    limit: int = 100


class DatabaseHealth(Struct):
    """Whether the database does its work."""

    kind: str
    is_writable: bool
    """It took an empty transaction just now."""
    version: int
    """Of its tables; 0 while that cannot be read."""
    newest: int
    """The version that this program works with."""


class Upgrade(Struct, frozen=True):
    """From which version to which the tables came; 0 is a database without tables."""

    before: int
    after: int
