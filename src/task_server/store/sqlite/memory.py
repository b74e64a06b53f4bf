"""What the one server on a SQLite file keeps in memory: written through, rebuilt at start.

Only the writer's thread changes it. The event loop may read single values and copies of lists.
"""

from __future__ import annotations

import sqlite3
from hashlib import blake2b

import msgspec
from msgspec import Struct

from task_server.scheduling.lanes import Candidate, Lane, Window
from task_server.scheduling.placement import MAXIMUM_KNOWN, Placement
from task_server.scheduling.requires import Requires, requires_of
from task_server.scheduling.shares import Shares
from task_server.scheduling.statistics import Statistics
from task_server.store.attempts import Dealt, LeaseKey
from task_server.store.group_commit import Operation
from task_server.store.kinds import FunctionKey, Kind, KindSpec
from task_server.store.sessions import ExchangeResult, WorkerFacts

SERVER = 1
"""SQLite has one server."""
MAXIMUM_KINDS = 20_000
FAILED_REQUEST = 2
"""State of an environment request whose lock failed for good."""


class Queued(Candidate):
    """A queued task in a window: all that its lease needs."""

    id: bytes
    kind: Kind
    batch: int | None
    position: int | None
    submitted_at: float
    predicted_high: float
    attempt: int
    payload: bytes | None
    digest: bytes | None = None
    is_fresh: bool = False
    """Not in the database yet: inserted by this group."""


class Running(Struct):
    """A leased task as its session knows it."""

    number: int
    id: bytes
    kind: Kind
    attempt: int
    secret: bytes
    batch: int | None
    position: int | None
    submitted_at: float
    started_at: float
    reply: int
    predicted: float
    predicted_high: float = 0.0
    is_short: bool = False
    high: float = 0.0
    """Predicted p90 in seconds, of a short function."""
    phase: str = "leased"
    requires: Requires | None = None

    @property
    def key(self) -> LeaseKey:
        """Its lease."""
        return LeaseKey(self.number, self.attempt, self.secret)


class Request(Struct):
    """An environment request."""

    number: int
    text: str
    python: str
    environment: str | None
    state: int


class Session:
    """One start of a worker, or all leases of a plain worker's token."""

    __slots__ = (
        "alive_until",
        "environments",
        "facts",
        "id",
        "is_dirty",
        "is_over",
        "leases",
        "number",
        "older",
        "row",
        "seen",
        "stops",
        "token",
        "unseen",
        "waiter",
        "worker",
        "worker_id",
    )

    def __init__(
        self, row: int, session: str, *, worker: int, worker_id: str, token: int, facts: WorkerFacts
    ) -> None:
        self.row = row
        self.id = session
        self.worker = worker
        self.worker_id = worker_id
        self.token = token
        self.facts = facts
        self.alive_until = 0.0
        self.number = 0
        self.seen = 0
        self.is_over = False
        self.is_dirty = False
        self.leases: dict[int, Running] = {}
        self.unseen: list[tuple[int, list[Dealt]]] = []
        """Replies that may not have arrived, with the tasks they carried."""
        self.stops: list[tuple[str, str]] = []
        self.older: list[Session] = []
        """Ended sessions of this worker whose leases its first exchange settles."""
        self.waiter: Waiter | None = None
        """The parked exchange."""
        self.environments: dict[str, str] = {}

    def stop(self, lease: str, why: str) -> None:
        """Have its next reply end an attempt. A plain worker has no replies: its answer is late."""
        if not self.facts.is_plain and not self.is_over:
            self.stops.append((lease, why))


class Waiter:
    """A worker's parked request for tasks, and what it will be told."""

    __slots__ = ("operation", "plain_seconds", "result", "session", "want")

    def __init__(
        self,
        session: Session,
        operation: Operation[ExchangeResult],
        *,
        want: int,
        result: ExchangeResult,
        plain_seconds: float = 0.0,
    ) -> None:
        self.session = session
        self.operation = operation
        self.want = want
        self.result = result
        self.plain_seconds = plain_seconds
        """How long a plain lease lasts at least."""


class Memory:
    """The writer's view of the database."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.kinds: dict[int, Kind] = {}
        self.kinds_by_spec: dict[KindSpec, Kind] = {}
        self.lanes: dict[int, Lane[Queued]] = {}
        self.lanes_by_key: dict[tuple[object, ...], Lane[Queued]] = {}
        self.requests: dict[str, Request] = {}
        self.requests_by_number: dict[int, Request] = {}
        self.functions: dict[FunctionKey, Statistics] = {}
        self.functions_by_number: dict[int, Statistics] = {}
        self.sessions: dict[str, Session] = {}
        self.sessions_by_row: dict[int, Session] = {}
        self.parked: dict[Operation[ExchangeResult], Waiter] = {}
        self.active: set[int] = set()
        """Lanes that may have a queued task."""
        self.shares = Shares({})
        self.placement = Placement()
        self.load: dict[int, int] = {}
        """Queued and delayed tasks of each kind."""
        self.broken: dict[tuple[int, str], float] = {}
        """(worker, environment) -> until when it is not offered there."""
        self.awaited: set[int] = set()
        """Tasks that others wait for."""
        self.unfollowed: set[int] = set()
        """Those of them that have ended, while others wait still."""
        self.has_requirements = False
        """Some lane requires something."""
        self.has_tombstones = False
        """Ids of deleted tasks have to be looked for in what is submitted."""
        self.next_number = 1
        self.next_n = 1
        self._read()

    # ---- rebuilt at start

    def _read(self) -> None:
        one = self.connection.execute
        # What was given before is not given again, though its row may be gone.
        kept = dict(one("SELECT name, value FROM meta WHERE name IN ('next_n', 'next_number')"))
        highest = one("SELECT max(number) FROM tasks").fetchone()[0] or 0
        self.next_number = max(highest + 1, kept.get("next_number", 1))
        highest = one("SELECT max(n) FROM tasks WHERE n IS NOT NULL").fetchone()[0] or 0
        self.next_n = max(highest + 1, kept.get("next_n", 1))
        self._read_requests()
        self._read_functions()
        for row in one(
            "SELECT lane, owner, priority, python, plain, sandbox, request, requires FROM lanes"
        ):
            self._add_lane(*row)
        self.load = dict(
            one("SELECT kind, queued FROM kind_load WHERE server = ? AND queued > 0", (SERVER,))
        )
        for kind in self.load:  # what waits is priced by kind, without asking the database
            self.kind_numbered(kind)
        self._read_active()
        self.placement.restore(
            one(
                "SELECT worker, runs, slowness FROM workers WHERE runs > 0 LIMIT ?",
                (MAXIMUM_KNOWN,),
            )
        )
        (self.has_tombstones,) = one("SELECT EXISTS (SELECT 1 FROM tombstones)").fetchone()
        self.broken = {
            (worker, environment): until
            for worker, environment, until in one(
                "SELECT worker, environment, broken_until FROM worker_environments"
                " WHERE broken_until IS NOT NULL"
            )
        }

    def _read_active(self) -> None:
        """Which lanes have something queued: only their windows have to be filled."""
        rows = self.connection.execute(
            "SELECT lane FROM lanes WHERE EXISTS"
            " (SELECT 1 FROM tasks WHERE tasks.state = 0 AND tasks.lane = lanes.lane)"
        )
        self.active = {lane for (lane,) in rows}
        for lane in self.lanes.values():
            lane.window.is_complete = lane.number not in self.active
        kept = self.connection.execute("SELECT owner, charged_seconds FROM shares")
        self.shares = Shares(dict(kept), active={self.lanes[lane].owner for lane in self.active})

    def _read_requests(self) -> None:
        rows = self.connection.execute(
            "SELECT request, text, python, environment, state FROM environment_requests"
        )
        for row in rows:
            self.remember_request(Request(*row))

    def _read_functions(self) -> None:
        rows = self.connection.execute(
            "SELECT f.function, f.owner, f.distribution, f.name, s.calls, s.failures,"
            " s.first_seconds, s.run_seconds, s.queue_seconds, s.install_seconds,"
            " s.import_seconds, s.cpu_seconds, s.peak_bytes, s.histogram, s.accuracy, s.pace,"
            " s.peaks"
            " FROM functions f LEFT JOIN function_statistics s USING (function)"
        )
        for function, owner, distribution, name, *kept in rows:
            statistics = Statistics(function, owner)
            if kept[0] is not None:
                statistics.restore(*kept)
            self.functions[owner, distribution, name] = statistics
            self.functions_by_number[function] = statistics

    def _add_lane(
        self,
        number: int,
        owner: int,
        priority: int,
        python: str,
        plain: int,
        sandbox: int,
        request: int,
        required: str,
    ) -> Lane[Queued]:
        lane: Lane[Queued] = Lane(
            number,
            owner=owner,
            priority=priority,
            python=python,
            plain=bool(plain),
            sandbox=sandbox,
            request=request,
            environment=self.requests_by_number[request].environment,
            window=Window(is_complete=True),
            requires=requires_of(required),
        )
        self.lanes[number] = lane
        self.lanes_by_key[lane.key] = lane
        self.has_requirements |= lane.requires is not None
        return lane

    # ---- look-ups that make what is missing

    def remember_request(self, request: Request) -> None:
        """Keep a request, and let its lanes know its environment."""
        self.requests[request.text] = request
        self.requests_by_number[request.number] = request
        for lane in self.lanes.values():
            if lane.request == request.number:
                lane.environment = request.environment

    def request(self, text: str, python: str, environment: str | None) -> Request:
        """The request of that text; a new one without a known lock is to be locked."""
        found = self.requests.get(text)
        if found is None:
            state = 0 if environment is None else 1
            cursor = self.connection.execute(
                "INSERT INTO environment_requests (text, python, environment, state)"
                " VALUES (?, ?, ?, ?)",
                (text, python, environment, state),
            )
            found = Request(int(cursor.lastrowid or 0), text, python, environment, state)
            self.remember_request(found)
        return found

    def function(self, key: FunctionKey) -> Statistics:
        """The function of that identity."""
        found = self.functions.get(key)
        if found is None:
            cursor = self.connection.execute(
                "INSERT INTO functions (owner, distribution, name) VALUES (?, ?, ?)", key
            )
            found = Statistics(int(cursor.lastrowid or 0), key[0])
            self.functions[key] = found
            self.functions_by_number[found.function] = found
        return found

    def lane(self, spec: KindSpec, request: Request) -> Lane[Queued]:
        """The lane of a spec."""
        required = requires_of(spec.requires)
        facts = (spec.sandbox, spec.python, spec.plain, request.number)
        key = (spec.owner, spec.priority, required, *facts)
        found = self.lanes_by_key.get(key)
        if found is None:
            cursor = self.connection.execute(
                "INSERT INTO lanes (owner, priority, requires, sandbox, python, plain, request,"
                " limit_keys) VALUES (?, ?, ?, ?, ?, ?, ?, '')",
                (spec.owner, spec.priority, spec.requires, *facts),
            )
            found = self._add_lane(
                int(cursor.lastrowid or 0),
                spec.owner,
                spec.priority,
                spec.python,
                int(spec.plain),
                spec.sandbox,
                request.number,
                spec.requires,
            )
        return found

    def kind(self, spec: KindSpec) -> Kind:
        """The kind of a spec, stored once."""
        found = self.kinds_by_spec.get(spec)
        if found is None:
            found = self._stored_kind(spec)
            self._remember_kind(found)
        return found

    def kind_numbered(self, number: int) -> Kind:
        """The kind of that number."""
        found = self.kinds.get(number)
        if found is None:
            row = self.connection.execute(
                "SELECT kind, function, lane, spec FROM kinds WHERE kind = ?", (number,)
            ).fetchone()
            found = Kind.read(*row)
            self._remember_kind(found)
        return found

    def _remember_kind(self, kind: Kind) -> None:
        if len(self.kinds) >= MAXIMUM_KINDS:  # rare; they are read again as needed
            self.kinds.clear()
            self.kinds_by_spec.clear()
        self.kinds[kind.number] = kind
        self.kinds_by_spec[kind.spec] = kind

    def _stored_kind(self, spec: KindSpec) -> Kind:
        data = msgspec.msgpack.encode(spec)
        digest = blake2b(data, digest_size=16).digest()
        row = self.connection.execute(
            "SELECT kind, function, lane, spec FROM kinds WHERE digest = ?", (digest,)
        ).fetchone()
        if row is not None:
            return Kind.read(*row)
        request = self.request(spec.request, spec.python, spec.environment)
        lane = self.lane(spec, request)
        function = self.function(spec.function_key).function
        cursor = self.connection.execute(
            "INSERT INTO kinds (digest, owner, function, lane, spec, keep, pickle)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (digest, spec.owner, function, lane.number, data, spec.keep, spec.pickle),
        )
        self.connection.execute(
            "UPDATE functions SET unused_since = NULL"
            " WHERE function = ? AND unused_since IS NOT NULL",
            (function,),
        )
        return Kind(
            int(cursor.lastrowid or 0), spec, function, lane.number, frozenset(spec.retry_on)
        )

    def statistics_of(self, kind: Kind) -> Statistics:
        """The statistics of a kind's function."""
        return self.functions_by_number[kind.function]
