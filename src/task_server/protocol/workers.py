"""What workers send and get (docs/reference/wire.md, section 3)."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, Raw, Struct, UnsetType

from task_server.protocol.tasks import Error, Resolved

PROTOCOL = 1
"""The version of the exchange that this code speaks."""

SANDBOX_LEVELS = range(5)

Outcome = Literal["succeeded", "failed", "crashed", "released"]
Phase = Literal["leased", "installing", "running"]


class Join(Struct, forbid_unknown_fields=True, kw_only=True):
    """A worker presents itself; each start is a session."""

    name: str
    protocol: tuple[int, int]
    slots: int
    worker: str | None = None
    """The id kept in the worker's data directory; None the first time."""
    labels: dict[str, str] = {}
    cpu: float | None = None
    memory: int | None = None
    gpu: int = 0
    pythons: list[str] = []
    """Minor versions such as `3.11`."""
    platform: str = ""
    sandbox: int = 0
    version: str = ""


class Joined(Struct):
    """Reply to a join."""

    worker: str
    session: str
    protocol: int
    lease_seconds: float
    renew_seconds: float


class Usage(Struct, omit_defaults=True):
    """What an attempt used; seconds and bytes."""

    run_seconds: float = 0.0
    install_seconds: float = 0.0
    import_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    sandbox: int = 0
    """Level that held it."""


class Report(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """How one attempt ended."""

    lease: str
    outcome: Outcome
    encoding: Literal["json", "pickle"] | None = None
    answer: Raw = Raw()
    """The value as JSON, or a JSON string with the base64 of its pickle."""
    blob: str | None = None
    error: Error | None = None
    unfit: bool = False
    """A release because this worker cannot build or hold it, not because it has no time."""
    pause: float = 0.0
    """A release because the package index is away: seconds without tasks of its environment."""
    resolved: Resolved | None = None
    usage: Usage | None = None
    log: str | None = None


class Held(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A lease that the worker has and has not reported."""

    lease: str
    phase: Phase = "leased"
    progress: float | None = None


class EnvironmentState(Struct, forbid_unknown_fields=True):
    """One environment on a worker."""

    digest: str
    state: Literal["building", "ready", "failed", "removed"]


class OrderState(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """How far a worker is with an order."""

    order: str
    state: Literal["building", "importing", "ready", "failed"]
    log: str = ""
    """Of a failure; else what there is to say."""


class Exchange(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Reports, renews and asks for more, in one."""

    session: str
    number: int
    seen: int = 0
    want: int = 0
    wait: float = 0.0
    decisions_within: float = 0.0
    """Seconds that the decisions of its reports may wait for tasks to go along with them."""
    draining: bool = False
    reports: list[Report] = []
    held: list[Held] | None = None
    environments: list[EnvironmentState] = []
    orders: list[OrderState] = []
    """Those that have changed."""


class Decision(Struct, omit_defaults=True):
    """What became of one report."""

    lease: str
    status: int
    duplicate: bool = False


class Stop(Struct):
    """A lease whose attempt is to end."""

    lease: str
    why: Literal["cancelled", "gone"]


class Limits(Struct, frozen=True, omit_defaults=True):
    """Bounds of one attempt; absent: the worker's own."""

    memory: int | None = None
    cpu: float | None = None
    processes: int | None = None
    file_bytes: int | None = None
    log_bytes: int | None = None
    network: str | None = None
    gpus: int | None = None
    reserved: int | None = None
    """Bytes that are kept free for it: it may take so many, should its slot's share be less."""


class FunctionReference(Struct):
    """A function by value, for a worker: the blob with its pickle."""

    pickle: str
    """`sha256:HEX`."""
    name: str


class Call(Struct):
    """Encoded arguments, for a worker: base64 or a blob."""

    encoding: Literal["json", "pickle"]
    data: str | UnsetType = UNSET
    blob: str | UnsetType = UNSET


class Assignment(Struct, kw_only=True, omit_defaults=True):
    """One leased task."""

    id: str
    lease: str
    owner: str
    function: str | FunctionReference
    environment: str
    attempt: int
    module: str | None = None
    package: str | None = None
    args: Raw = Raw()
    kwargs: Raw = Raw()
    call: Call | UnsetType = UNSET
    timeout_seconds: float = 0.0
    """0: none."""
    timeout_why: str = ""
    """Where that is not the task's own number."""
    result_encoding: str = "json"
    isolation: str = "reuse"
    at_most_once: bool = False
    limits: Limits | UnsetType = UNSET


class Order(Struct, omit_defaults=True):
    """An environment to have ready before its tasks come."""

    order: str
    """Its name in an OrderState; empty: nobody wants to hear of it."""
    environment: str | None = None
    """Digest; None: remove the environments that are neither in use nor ordered."""
    packages: list[str] = []
    """Distributions whose modules are imported if `modules` is empty."""
    modules: list[str] = []


class Exchanged(Struct, kw_only=True, omit_defaults=True):
    """Reply to an exchange."""

    number: int
    decisions: list[Decision] = []
    stop: list[Stop] = []
    give_back: list[str] = []
    prepare: list[str] = []
    """Digests of the environments of `orders`, for workers that know no more than that."""
    orders: list[Order] | None = None
    """All there are for this worker; None: as before."""
    drain: bool = False
    tasks: list[Assignment] = []
