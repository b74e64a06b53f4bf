"""What users send and get: tasks, batches, estimates (docs/reference/wire.md, section 2)."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

State = Literal["queued", "delayed", "running", "succeeded", "failed", "cancelled", "expired"]
ErrorKind = Literal[
    "exception",
    "timeout",
    "out_of_memory",
    "import",
    "not_found",
    "not_serialisable",
    "too_big",
    "environment",
    "lost",
]
ResultEncoding = Literal["json", "pickle", "auto"]
Features = dict[str, float | str]
"""What a client says of arguments that tells how long a call takes."""
TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled", "expired"})


class FunctionByValue(Struct, frozen=True, forbid_unknown_fields=True):
    """A pickled callable: base64 of the pickle or `sha256:HEX` of a blob that holds it."""

    pickle: str
    name: str
    python: str


class EncodedCall(Struct, forbid_unknown_fields=True):
    """Arguments that are not plain JSON, or that lie in a blob: `(args, kwargs)`."""

    encoding: Literal["pickle", "json"]
    data: str | None = None
    """Base64."""
    blob: str | None = None
    """`sha256:HEX`."""


class Retries(Struct, frozen=True, forbid_unknown_fields=True):
    """When a failed attempt is followed by another."""

    max: int = 0
    backoff: float = 1.0
    """Seconds; the wait is drawn from 0 to backoff x 2^errors, between 1 s and 1 h."""
    on: tuple[Literal["exception", "timeout", "out_of_memory"], ...] = (
        "exception",
        "timeout",
        "out_of_memory",
    )


class Requires(Struct, frozen=True, forbid_unknown_fields=True):
    """What a task needs of its worker."""

    cpu: float | None = None
    """Cores."""
    memory: float | str | None = None
    """Bytes, or a text such as `2GiB`."""
    gpu: int | None = None
    labels: dict[str, str] | None = None
    """Names and values that the worker's own labels have to have."""


class Item(Struct, forbid_unknown_fields=True):
    """What nearly every member of a list has of its own; the rest stands in `defaults`."""

    id: str | None = None
    args: Raw = Raw()
    kwargs: Raw = Raw()
    call: EncodedCall | None = None
    features: Features | UnsetType | None = UNSET


class Task(Struct, forbid_unknown_fields=True, kw_only=True):
    """One task as submitted; UNSET and null are absent."""

    function: str | FunctionByValue | UnsetType | None = UNSET
    module: str | UnsetType | None = UNSET
    package: str | list[str] | UnsetType | None = UNSET
    version: str | UnsetType | None = UNSET
    python: str | UnsetType | None = UNSET
    environment: str | UnsetType | None = UNSET
    requirements: str | UnsetType | None = UNSET
    """Lines of a requirements file, besides `package`."""
    script: str | UnsetType | None = UNSET
    """A script whose header says what it needs (PEP 723)."""
    args: Raw = Raw()
    kwargs: Raw = Raw()
    call: EncodedCall | None = None
    features: Features | UnsetType | None = UNSET
    id: str | None = None
    timeout: float | Literal["auto"] | UnsetType | None = UNSET
    retries: Retries | UnsetType | None = UNSET
    priority: int | UnsetType | None = UNSET
    run_after: datetime | UnsetType | None = UNSET
    start_by: datetime | UnsetType | None = UNSET
    finish_by: datetime | UnsetType | None = UNSET
    at_most_once: bool | UnsetType | None = UNSET
    keep: float | Literal["until_read"] | UnsetType | None = UNSET
    requires: Requires | UnsetType | None = UNSET
    require_sandbox: int | UnsetType | None = UNSET
    isolation: Literal["reuse", "fresh"] | UnsetType | None = UNSET
    tags: list[str] | UnsetType | None = UNSET
    limit_keys: list[str] | UnsetType | None = UNSET
    after: list[str] | UnsetType | None = UNSET
    result_encoding: ResultEncoding | UnsetType | None = UNSET


class NewBatch(Struct, forbid_unknown_fields=True):
    """A batch to open, or the one that a list makes."""

    id: str | None = None
    name: str | None = None
    expected: int | None = None
    order: Literal["predicted", "submit"] | None = None


class Submit(Struct, forbid_unknown_fields=True):
    """A list with defaults. Items stay as sent: their bytes are what makes a repeat equal."""

    tasks: list[Raw]
    defaults: Raw = Raw()
    batch: NewBatch | None = None


class Error(Struct, omit_defaults=True):
    """Why a task failed."""

    kind: ErrorKind
    type: str
    message: str
    traceback: str = ""
    exit: int | None = None
    """Exit status of the runner, negative for a signal; None when it lived."""
    pickle: str | None = None
    """Base64 of the pickled exception, for Python callers; absent when it does not pickle."""


class Basis(Struct):
    """What an estimate rests on."""

    calls: int
    model: str
    """`history`: this function's own calls; `owner`, `server`, `guess`: nothing of its own."""
    error_factor: float | None = None
    """How far off it has been so far (1.3: by 30 % either way); None when not known."""


class Quantiles(Struct):
    """Quantiles of seconds."""

    p10: float
    p50: float
    p90: float


class CallEstimate(Struct):
    """Predicted run time of one call, in seconds."""

    p10: float
    p50: float
    p90: float
    p99: float
    known: bool
    basis: Basis


class CoreSeconds(Struct):
    """Predicted total of many calls."""

    core_seconds: Quantiles
    unknown_tasks: int


class EtaOnSlots(Struct):
    """When all would be done on a number of slots."""

    slots: int
    eta: Quantiles


class Estimate(Struct, omit_defaults=True):
    """Reply of `/v1/estimates`, and part of each submit's reply."""

    total: CoreSeconds
    eta: Quantiles | None
    """Seconds from now on the workers there are, with the queue as it is; null without workers."""
    install_seconds: float | None = None
    memory_bytes: int | None = None
    calls: list[CallEstimate] | UnsetType = UNSET
    eta_by_slots: list[EtaOnSlots] | UnsetType = UNSET
    """On the slots there are, and on twice and four times as many; not in a submit's reply."""


class Submitted(Struct):
    """Reply to a list."""

    batch: str
    ids: list[str]
    duplicate: bool
    estimate: Estimate


class SubmittedOne(Struct):
    """Reply to a single task."""

    id: str
    duplicate: bool
    estimate: Estimate


class Resolved(Struct, omit_defaults=True):
    """Which callable it was."""

    module: str | None = None
    rule: str | None = None
    versions: dict[str, str] | None = None


class TaskEstimate(Struct):
    """The estimate as it was made at submit."""

    p50: float
    p90: float
    known: bool
    basis: Basis


class TaskView(Struct, kw_only=True, omit_defaults=True):
    """A task as its owner sees it."""

    id: str
    batch: str | None
    state: State
    phase: str | None
    function: str
    module: str | None
    package: str | list[str] | None
    resolved: Resolved | None
    environment: str | None
    attempt: int
    generation: int
    worker: str | None
    submitted_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    queue_seconds: float | None
    install_seconds: float | None
    run_seconds: float | None
    cpu_seconds: float | None
    peak_bytes: int | None
    sandbox: int | None
    tags: list[str]
    estimate: TaskEstimate
    encoding: str | None
    waits_for: str | UnsetType = UNSET
    """Why its phase still is `locking`, when that took more than one try."""
    timeout_seconds: float | UnsetType = UNSET
    """How long its last attempt may run, of a task whose `timeout` is `auto`."""
    timeout_why: str | UnsetType = UNSET
    answer: Raw = Raw()
    blob: str | UnsetType = UNSET
    error: Error | UnsetType = UNSET


class PastView(Struct, kw_only=True, omit_defaults=True):
    """What a task came to before a manual retry."""

    generation: int
    attempt: int
    """The last of that generation; 0: it never started."""
    state: State
    started_at: datetime | None
    ended_at: datetime
    error: Error | UnsetType = UNSET


class BatchView(Struct):
    """A batch as its owner sees it."""

    id: str
    name: str | None
    open: bool
    total: int
    expected: int | None
    counts: dict[str, int]
    progress: float
    core_seconds: Quantiles
    """What is left."""
    eta: Quantiles | None


class SlotsNeeded(Struct):
    """So many slots do with a probability of 50 % and of 90 %; null: no number of them does."""

    p50: int | None
    p90: int | None


class Capacity(Struct):
    """What the fleet can do until a moment, and what it has to do."""

    finish_by: datetime
    seconds: float
    """Until then."""
    slots: int
    """On the workers there are."""
    core_seconds: float
    """That the slots have until then."""
    queued: Quantiles
    """Core-seconds of everybody's open work: what waits, and what is left of what runs."""
    unknown_tasks: int
    """Of that work, how many are guesses."""
    free: Quantiles
    """Core-seconds that are left until then; below 0: that are short."""
    eta: Quantiles | None
    """Seconds until that work is done; null without workers."""
    slots_needed: SlotsNeeded


class Problem(Struct, omit_defaults=True):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    errors: list[dict[str, object]] = []
