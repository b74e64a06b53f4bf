"""What one of several servers keeps in memory: rows that hardly change, and who is parked here.

Nothing that a verb decides on lies here alone: the database is the truth. Statistics, shares and
lane hints may be a second old.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from task_server.scheduling.lanes import Candidate
from task_server.scheduling.placement import Placement
from task_server.scheduling.requires import Requires
from task_server.scheduling.statistics import Statistics
from task_server.store.group_commit import Operation
from task_server.store.kinds import FunctionKey, Kind, KindSpec
from task_server.store.postgres.shares import Ledger
from task_server.store.sessions import ExchangeResult, WorkerFacts
from task_server.store.submissions import NewTask

MAXIMUM_KINDS = 20_000
MAXIMUM_SESSIONS = 10_000
"""Sessions of which something is remembered."""
TO_LOCK, LOCKED, FAILED = 0, 1, 2
"""States of an environment request."""
_KNOWN = (
    "kinds",
    "kinds_by_spec",
    "lanes",
    "lanes_by_key",
    "has_requirements",
    "requests",
    "requests_by_number",
    "function_keys",
    "functions",
    "functions_by_number",
    "own",
    "others",
    "counted_to",
)
FEWEST, MOST = 8, 1024
"""Tasks of one lane in one look."""


class Queued(Candidate):
    """A queued task that was looked at."""

    kind: Kind
    attempt: int


class Fresh(Queued):
    """One of this group, which is stored as queued, or as running when it is dealt at once."""

    task: NewTask
    row: tuple[object, ...]
    """What is stored of it, but for its lease."""
    lease: tuple[int, int, bytes, int] | None = None
    """Session, number of the reply, secret, whether it is short."""


class Request(Struct, frozen=True):
    """An environment request."""

    number: int
    text: str
    python: str
    environment: str | None
    state: int


class LaneFacts(Struct, frozen=True):
    """What decides who may take from a lane."""

    number: int
    owner: int
    priority: int
    python: str
    plain: bool
    sandbox: int
    request: int
    requires: Requires | None

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it from others."""
        required = "" if self.requires is None else self.requires.text
        facts = (self.sandbox, self.python, self.plain, self.request)
        return (self.owner, self.priority, required, *facts)


class Warm(Struct, frozen=True):
    """A worker that has an environment."""

    worker: int
    started_at: float | None
    """Of its task that is likely to end first; None: it has none."""
    predicted: float | None


class WarmWorkers(Struct):
    """Who has which environment, as of a moment ago."""

    until: float = float("-inf")
    environments: frozenset[str] = frozenset()
    found: dict[str, list[Warm]] = {}


class Hint:
    """Where the next look at a lane begins, and how far it goes."""

    __slots__ = ("cost", "count", "head", "is_doubted", "restarted_at", "stamp")

    def __init__(self) -> None:
        self.head = float("-inf")
        """Nothing queued lies below, as far as this server knows."""
        self.restarted_at = float("-inf")
        """When a look last began at the very start, on the loop's clock."""
        self.cost = 0.0
        """Seconds that it took."""
        self.count = FEWEST
        self.is_doubted = False
        """Another server may have queued something lower."""
        self.stamp = 0
        """Goes up with all news of the lane."""


class Parking(Operation[ExchangeResult]):
    """A request for tasks, which may wait for them."""

    __slots__ = ("is_gone", "is_over")

    def __init__(self, work: Callable[[Operation[ExchangeResult]], None], *, rows: int) -> None:
        super().__init__(work, rows=rows)
        self.is_over = False
        """It waits no longer."""
        self.is_gone = False
        """Nobody listens any more: it gets no tasks."""


class Waiter:
    """A worker's parked request for tasks, and what it will be told."""

    __slots__ = (
        "facts",
        "number",
        "operation",
        "plain_seconds",
        "result",
        "session",
        "want",
        "worker",
    )

    def __init__(
        self,
        session: int,
        worker: int,
        facts: WorkerFacts,
        operation: Parking,
        *,
        number: int,
        want: int,
        result: ExchangeResult,
        plain_seconds: float = 0.0,
    ) -> None:
        self.session = session
        self.worker = worker
        self.facts = facts
        self.operation = operation
        self.number = number
        """Of the exchange: a newer one, wherever it parks, takes its place."""
        self.want = want
        self.result = result
        self.plain_seconds = plain_seconds
        """How long a plain lease lasts at least."""


class Memory:
    """One server's view of the database."""

    def __init__(self, server: int) -> None:
        self.server = server
        self.next_n = 1
        """The next place among the tasks that this server ends."""
        self.written_n = 0
        """As others know it."""
        self.kinds: dict[int, Kind] = {}
        self.kinds_by_spec: dict[KindSpec, Kind] = {}
        self.unused: set[int] = set()
        """Kinds that no task needs: not to be used again without a look."""
        self.lanes: dict[int, LaneFacts] = {}
        self.has_requirements = False
        """Some lane requires something."""
        self.lanes_by_key: dict[tuple[object, ...], int] = {}
        self.requests: dict[str, Request] = {}
        self.requests_by_number: dict[int, Request] = {}
        self.function_keys: dict[int, FunctionKey] = {}
        self.functions: dict[FunctionKey, Statistics] = {}
        self.functions_by_number: dict[int, Statistics] = {}
        self.own: dict[int, Statistics] = {}
        """What this server has counted; `functions` are sums of all servers."""
        self.others: dict[int, dict[int, Statistics]] = {}
        """Function -> server -> what that one has counted."""
        self.counted_to = 0.0
        """When the newest of those was written."""
        self.shares = Ledger({})
        self.placement = Placement()
        self.warm = WarmWorkers()
        self.active: set[int] = set()
        """Lanes that may have a queued task."""
        self.hints: dict[int, Hint] = {}
        self.broken: dict[tuple[int, str], float] = {}
        """(worker, environment) -> until when it is not offered there."""
        self.phases: dict[int, dict[int, str]] = {}
        """Session -> task -> how far it is, where that was told here."""
        self.spoken: dict[int, int] = {}
        """Session -> number of its last exchange here."""
        self.plain: dict[int, tuple[int, int]] = {}
        """Token of a plain worker -> its session and worker."""
        self.parked: dict[Parking, Waiter] = {}
        self.waiters: dict[int, Waiter] = {}
        self.oldest_replies: dict[int, int] = {}
        """Session -> the exchange since which it got all that it runs: before it are dead rows."""
        """By session; plain workers have no place here."""

    # ---- what is known

    def remember_request(self, request: Request) -> None:
        """Keep a request. One that is locked stays so: what was read before that is late."""
        known = self.requests.get(request.text)
        if known is not None and known.state == LOCKED:
            return
        self.requests[request.text] = request
        self.requests_by_number[request.number] = request

    def remember_lane(self, lane: LaneFacts) -> None:
        """Keep a lane."""
        self.lanes[lane.number] = lane
        self.lanes_by_key[lane.key] = lane.number
        self.has_requirements |= lane.requires is not None

    def remember_kind(self, kind: Kind) -> None:
        """Keep a kind."""
        self.kinds[kind.number] = kind
        self.kinds_by_spec[kind.spec] = kind

    def bound(self) -> None:
        """Between groups: forget what can be read again, when there is too much of it."""
        for kind in self.unused:
            self._forget_kind(kind)
        self.unused.clear()
        if len(self.kinds) >= MAXIMUM_KINDS:
            self.kinds.clear()
            self.kinds_by_spec.clear()
        for known in (self.phases, self.spoken):
            while len(known) > MAXIMUM_SESSIONS:
                del known[next(iter(known))]

    def _forget_kind(self, number: int) -> None:
        kind = self.kinds.pop(number, None)
        if kind is not None:
            self.kinds_by_spec.pop(kind.spec, None)

    def forget(
        self,
        kinds: Iterable[int],
        lanes: Iterable[int],
        requests: Iterable[int],
        functions: Iterable[int],
    ) -> None:
        """These are gone."""
        for number in kinds:
            self._forget_kind(number)
        for number in lanes:
            lane = self.lanes.pop(number, None)
            self.active.discard(number)
            self.hints.pop(number, None)
            if lane is not None:
                self.lanes_by_key.pop(lane.key, None)
        for number in requests:
            request = self.requests_by_number.pop(number, None)
            if request is not None:
                self.requests.pop(request.text, None)
        for number in functions:
            self.functions.pop(self.function_keys.pop(number, (0, "", "")), None)
            for known in (self.functions_by_number, self.own, self.others):
                known.pop(number, None)

    def know_only(self, other: Memory) -> None:
        """Know the rows that another memory does, and no more: any may be gone, or be another."""
        for name in _KNOWN:
            setattr(self, name, getattr(other, name))
        self.active.clear()
        self.hints.clear()

    def remember_function(self, number: int, key: FunctionKey) -> None:
        """Keep a function; of a new one nothing is counted yet."""
        if number not in self.function_keys:
            self.function_keys[number] = key
            self._add_up(number)

    def statistics_of(self, kind: Kind) -> Statistics:
        """What all servers know of a kind's function."""
        known = self.functions_by_number.get(kind.function)
        return Statistics(kind.function, kind.spec.owner) if known is None else known

    def environment_of(self, kind: Kind) -> str | None:
        """Digest of what a kind's tasks run in, as far as this server was told."""
        lane = self.lanes.get(kind.lane)
        request = None if lane is None else self.requests_by_number.get(lane.request)
        return None if request is None else request.environment

    # ---- what is counted

    def own_copy(self, function: int) -> Statistics:
        """What this server has counted of a function, to count on."""
        own = self.own.get(function)
        return Statistics(function, self.function_keys[function][0]) if own is None else own.copy()

    def count(self, own: Statistics) -> None:
        """This server has counted on."""
        self.own[own.function] = own
        self._add_up(own.function)

    def count_other(self, server: int, statistics: Statistics) -> None:
        """Another server has counted on."""
        self.others.setdefault(statistics.function, {})[server] = statistics
        self._add_up(statistics.function)

    def _add_up(self, function: int) -> None:
        key = self.function_keys[function]
        own, others = self.own.get(function), self.others.get(function)
        total = own if own is not None else Statistics(function, key[0])
        if others:
            total = total.copy()
            for _, other in sorted(others.items()):
                total.include(other)
        self.functions[key] = self.functions_by_number[function] = total

    # ---- lanes

    def hint(self, lane: int) -> Hint:
        """Where to look in a lane."""
        found = self.hints.get(lane)
        if found is None:
            found = self.hints[lane] = Hint()
        return found

    def wake_lane(self, lane: int, due_at: float | None = None) -> None:
        """A lane has something queued; `due_at`: of the first of it, where that is known."""
        hint = self.hint(lane)
        hint.stamp += 1
        if due_at is None:
            hint.is_doubted = True
        else:
            hint.head = min(hint.head, due_at)
        self.active.add(lane)
