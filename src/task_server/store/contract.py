"""The hot verbs of the store: what each takes, gives and promises.

Every verb takes a batch and is one transaction; it returns when that is on disk. Verbs of many
requests share transactions (group commit). Times are Unix seconds by the store's clock, `now`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from msgspec import Struct

from task_server.protocol.workers import EnvironmentState, Held
from task_server.scheduling.requires import Free
from task_server.scheduling.statistics import Price, Statistics
from task_server.scheduling.timeouts import RunLimit
from task_server.store.contract_explain import ExplainStore
from task_server.store.contract_learning import LearningStore
from task_server.store.contract_orders import OrderStore
from task_server.store.contract_upkeep import UpkeepStore
from task_server.store.states import Encoding, State
from task_server.store.transitions import Policy

if TYPE_CHECKING:
    from task_server.store.records.packages import Package
    from task_server.store.records.tokens import Token
    from task_server.store.records.workers import WorkerRow
    from task_server.store.rows import AnswerRow, BatchRow, DatabaseHealth, TaskFilter, TaskRow

FunctionKey = tuple[int, str, str]
"""Owner (0: by name), distribution, name."""
AUTO = -1.0
"""A `timeout` by how long the function's calls took."""
UNTIL_READ = -1.0
"""A `keep` that ends with the first read."""


class KindSpec(Struct, frozen=True, kw_only=True, array_like=True):
    """A task without its id and arguments: what the members of a list share."""

    owner: int
    function: str
    module: str | None
    package: tuple[str, ...]
    version: str | None
    distribution: str
    """Normalised name of the first package; empty without one."""
    python: str
    request: str
    """Canonical text of the environment request; empty: the empty environment."""
    environment: str | None
    """Digest of a lock that the task itself names."""
    pickle: str | None
    """`sha256:HEX` of a function by value."""
    timeout: float | None
    """Seconds, 0 for none; None: not stated; AUTO: fixed when it is leased."""
    max_attempts: int
    backoff: float
    retry_on: tuple[str, ...]
    priority: int
    at_most_once: bool
    result_encoding: str
    isolation: str
    tags: tuple[str, ...]
    plain: bool
    """A plain worker can run it."""
    keep: float | None = None
    """Seconds that its payloads are kept after its end, or UNTIL_READ; None: not stated."""
    sandbox: int = 0
    """Level that a worker has to reach, 0 to 4."""
    requires: str = ""
    """`Requires.text`."""

    @property
    def function_key(self) -> FunctionKey:
        """Whose statistics a task belongs to: a function by value is its owner's alone."""
        name = f"{self.module}:{self.function}" if self.module else self.function
        return (self.owner if self.pickle else 0, self.distribution, name)


class Kind(Struct):
    """A stored KindSpec."""

    number: int
    spec: KindSpec
    function: int
    lane: int
    retry_on: frozenset[str]
    head: bytes = b""
    """The part of an assignment that all its tasks share, as JSON; made when first leased."""

    @classmethod
    def read(cls, number: int, function: int, lane: int, data: bytes) -> Kind:
        """From its row: `data` is the spec as MessagePack."""
        spec = msgspec.msgpack.decode(data, type=KindSpec)
        return cls(number, spec, function, lane, frozenset(spec.retry_on))


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


class LeaseKey(Struct, frozen=True):
    """What a lease's text says: where its row is, and the secret that proves it."""

    number: int
    attempt: int
    secret: bytes

    @property
    def text(self) -> str:
        """As it travels."""
        return f"{self.number:x}.{self.attempt:x}.{self.secret.hex()}"

    @classmethod
    def parse(cls, text: str) -> LeaseKey | None:
        """None when the text is not a lease."""
        try:
            number, attempt, secret = text.split(".")
            key = cls(int(number, 16), int(attempt, 16), bytes.fromhex(secret))
        except ValueError:
            return None
        is_sane = 0 <= key.number < 2**62 and 0 <= key.attempt < 2**31 and len(key.secret) == 16
        return key if is_sane else None


class Used(Struct, omit_defaults=True):
    """What an attempt used, as kept with its task."""

    run_seconds: float = 0.0
    install_seconds: float = 0.0
    import_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    resolved: dict[str, str | None] | None = None
    worker: str | None = None
    sandbox: int = 0
    """Level that held it, 0 to 4."""


class AttemptReport(Struct):
    """How an attempt ended, as the worker says."""

    lease: LeaseKey | None
    """None: a text that is no lease, or a plain worker that names the task alone."""
    outcome: str
    encoding: Encoding
    answer: bytes
    """The answer, the blob's digest or the error, as kept and given out."""
    error_kind: str = ""
    unfit: bool = False
    pause_seconds: float = 0.0
    used: Used | None = None
    log: bytes = b""
    task: bytes | None = None
    """Id, for plain workers."""


class Decided(Struct):
    """What became of one report."""

    status: int
    duplicate: bool = False


DONE = Decided(200)
"""What becomes of nearly every report: it ended its task."""


class Dealt(Struct):
    """A leased task."""

    number: int
    id: bytes
    kind: Kind
    attempt: int
    secret: bytes
    payload: bytes
    limit: RunLimit | None = None
    """Of its run, where the task leaves that to the server."""

    @property
    def plain_seconds(self) -> float:
        """What a plain worker's lease needs at least: the time that its run may take, and more."""
        stated = self.kind.spec.timeout if self.limit is None else self.limit.seconds
        return stated + 60.0 if stated else 0.0


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


class ExchangeResult(Struct):
    """What the worker is told."""

    decisions: list[Decided]
    tasks: list[Dealt]
    stop: list[tuple[str, str]]
    """Lease and why."""
    drain: bool = False


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


class Store(OrderStore, UpkeepStore, LearningStore, ExplainStore, Protocol):
    """One database of tasks."""

    policy: Policy
    lease_seconds: float
    on_ended: Callable[[Sequence[Ended]], None]
    """Called on the event loop after the commit that ended them."""
    on_new_requests: Callable[[], None]
    """Called on the event loop when there are environment requests to lock."""
    on_full: Callable[[], bool]
    """Called in any thread when the disk is full; True when there is room now to try again."""
    on_changed: Callable[[Collection[int]], None]
    """Called on the event loop when batches grew or were closed at another server."""
    watched: Callable[[], tuple[Collection[bytes], Collection[int]]]
    """Asked for the tasks and batches that somebody waits for here: their ends are looked out for,
    wherever they happen."""

    # ---- what a server has in memory; none of these wait

    def statistics(self, key: FunctionKey) -> Statistics | None:
        """What is known of a function; None when it was never called."""

    def functions(self) -> list[tuple[FunctionKey, Statistics]]:
        """All functions that are known."""

    def statistics_of(self, kind: Kind) -> Statistics:
        """What is known of a kind's function."""

    def called_by(self, owner: int) -> list[Statistics]:
        """The functions that an owner has had called."""

    def knows_request(self, text: str) -> bool:
        """Whether an environment request of that text was made before."""

    def environment_of(self, request: str) -> str | None:
        """The digest of a request's lock; None before it is locked."""

    def phase(self, number: int) -> str:
        """How far the running attempt of a task is, as far as this server was told."""

    # ---- the fleet and the queue

    async def sessions(self) -> list[LiveSession]:
        """Workers that are heard of, plain ones too."""

    async def queued(self, owner: int | None) -> list[tuple[Kind, int]]:
        """How many tasks of each kind wait, of this owner (None: of all)."""

    async def running(self, owner: int | None) -> list[tuple[Kind, float]]:
        """Kind and start of each running task of this owner (None: of all)."""

    # ---- the verbs

    async def submit(self, submission: Submission) -> Accepted:
        """T1, T2. Raises Conflict, Gone, NotFound (no such open batch); then nothing is stored.

        Also Invalid for a task or a blob that a task needs and that is not there, with an entry
        for each in `errors`; Unavailable when a blob that was stored for it is deleted just now.
        """

    async def open_batch(self, owner: int, batch: BatchSpec) -> Accepted:
        """Make an open batch, or find the equal one of that id."""

    async def close_batch(self, owner: int | None, batch: bytes) -> bool:
        """No more tasks come; False when there is no such batch of this owner."""

    async def cancel_batch(
        self, owner: int | None, batch: bytes, *, unstarted: bool = False
    ) -> int | None:
        """Close a batch and cancel what is open of it; how many, None without such a batch.

        With `unstarted` what runs goes on.
        A large batch takes several transactions: one that is refused half-way goes on when
        repeated.
        """

    async def join(self, request: JoinRequest) -> str:
        """Begin a session of a worker and end its older ones; gives the worker's id."""

    async def exchange(self, request: ExchangeRequest) -> ExchangeResult:
        """T3, T5 to T10: decide reports, renew, and lease; parks until `wait_until` for tasks."""

    async def plain_lease(self, token: int, *, wait_until: float, seconds: float) -> Dealt | None:
        """T3 for a plain worker; the lease lasts at least `seconds`."""

    async def plain_answer(self, token: int, report: AttemptReport) -> Decided:
        """T6 to T8 for a plain worker."""

    async def cancel(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """T11; a status for each: 200, 404, 409 or 410. `owner` None: an admin."""

    async def retry(self, owner: int | None, ids: Sequence[bytes]) -> list[int]:
        """T13; a status for each: 200, 404, 409 or 410."""

    async def expire(self) -> None:
        """T4, T9 and T12 for all that is due."""

    async def extend_leases(self, *, by: float = 0.0) -> None:
        """The clock was set, `by` seconds ahead or (negative) back: give every lease a new term.

        None ends early, and nothing waits for a moment that lies further ahead than it did.
        """

    async def locked(self, text: str, *, environment: str, python: str, lock: str) -> None:
        """An environment request has its lock: its tasks can be leased."""

    async def lock_failed(self, text: str, message: str) -> None:
        """T15: an environment request's lock failed for good."""

    async def ask_for_lock(self, text: str, *, python: str, environment: str | None) -> None:
        """Have an environment request, and its lock made; one that failed is tried again.

        `environment`: the digest of a lock that is there already.
        """

    def release_parked(self, workers: Collection[int] | None = None) -> None:
        """Answer these workers' parked exchanges, without tasks; None: all that is parked."""

    async def health(self) -> DatabaseHealth:
        """Whether the database can be written now, and the version of its tables."""

    async def close(self) -> None:
        """Write what waits, end parked requests, and let go of the database."""

    async def task(self, identifier: bytes, owner: int | None) -> TaskRow | None:
        """The task, if this owner (None: anybody) may see it."""

    async def tasks(self, wanted: TaskFilter) -> list[TaskRow]:
        """A page of tasks, newest first."""

    async def batch(self, identifier: bytes, owner: int | None) -> BatchRow | None:
        """The batch, if this owner (None: anybody) may see it."""

    async def logs(self, number: int) -> list[tuple[int, bytes]]:
        """What a task's attempts printed: (attempt, log), first attempt first."""

    async def batch_kinds(self, batch: int) -> list[tuple[Kind, int]]:
        """How many open tasks of each kind a batch has."""

    async def answers_in_order(self, batch: int, start: int, limit: int) -> list[AnswerRow]:
        """Members of a batch that have ended, from position `start` on, by position."""

    async def answers_as_ended(
        self, batch: int, after: Mapping[int, int], limit: int
    ) -> list[AnswerRow]:
        """Members of a batch that ended after these places (server -> place).

        Fewer than `limit`: there are no more.
        """

    async def environment(self, digest: str) -> tuple[str, str, float] | None:
        """Python, lock and moment of an environment."""

    async def open_requests(self, now: float) -> list[tuple[str, str, int]]:
        """Environment requests to lock now: text, Python, tries so far.

        One that failed before is among them only while tasks wait for it.
        """

    async def lock_later(self, text: str, *, at: float, reason: str, counts: bool) -> None:
        """An environment request could not be locked now for this reason: not before `at` again.

        `counts`: as one of its tries.
        """

    async def keep_empty_lock(self, python: str, *, now: float) -> None:
        """Store the lock of the empty environment of a Python."""

    async def token(self, digest: bytes) -> Token | None:
        """The valid token with that digest."""

    async def owner_named(self, name: str) -> int:
        """The owner of that name, made if need be."""

    async def workers(self) -> list[WorkerRow]:
        """All workers that ever joined, newest first."""

    # ---- refreshed locks

    async def refresh(
        self, request: str, *, environment: str, python: str, lock: str, now: float
    ) -> None:
        """From now on tasks of this request (its text) get that lock."""

    async def refreshed(self) -> dict[str, str]:
        """Text of a request -> digest of the lock that was made anew for it."""

    async def refresh_mark(self) -> tuple[int, float]:
        """Changes whenever a lock is refreshed."""

    # ---- uploaded wheels

    async def add_package(self, package: Package, *, began: float) -> bool:
        """Note a wheel whose content was stored since `began`; False when it was there already.

        Raises Conflict for other content under the same file name, Unavailable when the content
        may have been deleted again.
        """

    async def packages(self, *, owner: int | None, name: str | None = None) -> list[Package]:
        """Wheels of an owner (None: of all), of one name (None: of all), oldest first."""

    async def packages_with(self, digests: Collection[str]) -> list[Package]:
        """Wheels that have one of these contents, whoever uploaded them."""

    async def remove_package(self, *, owner: int, name: str, version: str | None) -> int:
        """Forget the wheels of a name, or of one version of it; how many."""

    async def package_contents(self) -> list[tuple[int, str, str, str]]:
        """Owner, name, file name and digest of every wheel, oldest first."""

    async def package_mark(self) -> tuple[int, int]:
        """Changes whenever a wheel comes or goes."""
