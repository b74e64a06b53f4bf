"""What a request to submit brings to the store, and what it is told."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from task_server.scheduling.statistics import Price
from task_server.store.kinds import KindSpec


class NewTask(Struct):
    """One task to submit."""

    id: bytes
    digest: bytes | None
    """Of the body as sent; None where the server made the id."""
    payload: bytes
    """The arguments as members of a JSON object: `"args":[],"kwargs":{}` or `"call":{}`."""
    spec: int
    """Index into the submission's specs."""
    run_after: float | None = None
    start_by: float | None = None
    finish_by: float | None = None
    """When its owner wants it done."""
    after: tuple[bytes, ...] = ()
    """Ids of tasks that have to succeed before it may start."""
    blobs: tuple[str, ...] = ()
    """Names of the blobs that its arguments need."""
    features: bytes | None = None
    """What its client says of arguments that are not JSON: names to numbers and texts, as JSON."""


class StoredBlob(Struct, frozen=True):
    """A blob that the server has stored for a request."""

    name: str
    size: int


class BatchSpec(Struct):
    """A batch to open."""

    id: bytes
    digest: bytes | None
    name: str | None
    expected: int | None
    in_order: bool
    is_open: bool


class IdempotencyKey(Struct, frozen=True):
    """A client's name for one request."""

    text: str
    digest: bytes


class Submission(Struct):
    """One request's tasks: all of them or none."""

    owner: int
    specs: Sequence[KindSpec]
    prices: Sequence[Price]
    """One a spec."""
    tasks: Sequence[NewTask]
    batch: BatchSpec | None = None
    """A batch to make around them."""
    into: bytes | None = None
    """An open batch to add them to."""
    key: IdempotencyKey | None = None
    stored: Sequence[StoredBlob] = ()
    """Blobs that were stored for it, since the moment `began`."""
    began: float = 0.0
    slots: int = 1
    """How many tasks can run at once, as of a moment ago."""


class Accepted(Struct):
    """What became of a submission."""

    ids: list[bytes]
    batch: bytes | None
    duplicate: bool
