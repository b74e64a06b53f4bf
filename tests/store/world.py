"""A store under test: a clock that only the test moves, workers, and short words for the verbs."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from task_server.protocol.ids import new_id
from task_server.protocol.workers import EnvironmentState, Held, Phase
from task_server.scheduling.statistics import Price, guess
from task_server.store.attempts import AttemptReport, Dealt, Decided, LeaseKey, Used
from task_server.store.contract import Store
from task_server.store.kinds import KindSpec
from task_server.store.rows import BatchRow, Ended, TaskRow
from task_server.store.sessions import ExchangeRequest, ExchangeResult, JoinRequest, WorkerFacts
from task_server.store.states import Encoding
from task_server.store.submissions import Accepted, BatchSpec, IdempotencyKey, NewTask, Submission

START = 1_800_000_000.0
LEASE_SECONDS = 60.0
JITTER = 0.5
GUESS = guess(None, "guess")
BODY = b"d" * 16

SPEC = KindSpec(
    owner=1,
    function="sqrt",
    module="math",
    package=(),
    version=None,
    distribution="",
    python="3.11",
    request="python 3.11",
    environment="e" * 64,
    pickle=None,
    timeout=None,
    max_attempts=1,
    backoff=1.0,
    retry_on=("exception",),
    priority=0,
    at_most_once=False,
    result_encoding="json",
    isolation="reuse",
    tags=(),
    plain=True,
)


def spec(**options: Any) -> KindSpec:
    """A spec that differs from SPEC in these fields."""
    return msgspec.structs.replace(SPEC, **options)


def new_task(task: bytes | None = None, **options: Any) -> NewTask:
    """A task of the first spec, with an id made by its client."""
    fields = {"digest": BODY, "payload": b'"args":[4],"kwargs":{}', "spec": 0, **options}
    return NewTask(id=task or new_id(), **fields)


def batch(**options: Any) -> BatchSpec:
    """A closed batch."""
    fields: dict[str, Any] = {
        "id": new_id(),
        "digest": BODY,
        "name": None,
        "expected": None,
        "in_order": False,
        "is_open": False,
    }
    return BatchSpec(**{**fields, **options})


def lease_of(dealt: Dealt) -> LeaseKey:
    """The lease that a task was dealt with."""
    return LeaseKey(dealt.number, dealt.attempt, dealt.secret)


def ids(dealt: Sequence[Dealt]) -> list[bytes]:
    """Of which tasks these are."""
    return [each.id for each in dealt]


def succeeded(dealt: Dealt, answer: bytes = b"2.0", **options: Any) -> AttemptReport:
    """The report of a success."""
    fields = {"used": Used(run_seconds=1.0), **options}
    return AttemptReport(lease_of(dealt), "succeeded", Encoding.JSON, answer, **fields)


def failed(dealt: Dealt, kind: str = "exception", error: bytes = b'{"kind":1}') -> AttemptReport:
    """The report of a failure."""
    return AttemptReport(
        lease_of(dealt), "failed", Encoding.ERROR, error, error_kind=kind, used=Used()
    )


def crashed(dealt: Dealt) -> AttemptReport:
    """The report of a runner that died."""
    return AttemptReport(lease_of(dealt), "crashed", Encoding.ERROR, b"")


def released(dealt: Dealt, *, unfit: bool = False, pause_seconds: float = 0.0) -> AttemptReport:
    """The report of a task given back."""
    return AttemptReport(
        lease_of(dealt),
        "released",
        Encoding.ERROR,
        b"",
        unfit=unfit,
        pause_seconds=pause_seconds,
    )


def held(dealt: Dealt, phase: Phase = "leased") -> Held:
    """An entry of a held list."""
    return Held(lease_of(dealt).text, phase)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class World(ABC):
    """A database and the store that works on it now."""

    store: Store
    forgets_phases = False
    """What workers told of how far their tasks are is lost with the server."""

    has_purged = False
    """Tasks went: what was counted is more than what is there."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ended: list[Ended] = []
        self.new_requests = 0
        self._sessions = itertools.count(1)

    @abstractmethod
    async def open(self) -> Store:
        """A store on what the database holds now."""

    @abstractmethod
    async def kill(self) -> None:
        """Go on with what was on disk, as after a kill: the memory is lost."""

    @abstractmethod
    async def together(self, *calls: Awaitable[Any]) -> list[Any]:
        """Make these calls in one group, in this order; what each gives or raises."""

    @abstractmethod
    async def recount(self) -> None:
        """Check that memory and counters are what the tables say."""

    async def start(self) -> None:
        """Begin to work."""
        self.store = await self.open()
        self.store.on_ended = self.ended.extend
        self.store.on_new_requests = self._count_requests

    async def close(self) -> None:
        """Let go of the database, and of those left behind."""
        await self.store.close()

    async def restart(self) -> None:
        """Stop the server in order, and start it again."""
        await self.store.close()
        await self.start()

    def _count_requests(self) -> None:
        self.new_requests += 1

    # ---- users

    async def submit(
        self,
        *tasks: NewTask,
        count: int = 1,
        kind: KindSpec = SPEC,
        price: Price = GUESS,
        into: bytes | None = None,
        batch: BatchSpec | None = None,
        key: IdempotencyKey | None = None,
    ) -> Accepted:
        """Submit these tasks, or `count` new ones."""
        return await self.store.submit(
            Submission(
                kind.owner,
                [kind],
                [price],
                tasks or [new_task() for _ in range(count)],
                batch=batch,
                into=into,
                key=key,
            )
        )

    async def submit_kinds(
        self,
        tasks: Sequence[NewTask],
        *,
        kinds: Sequence[KindSpec],
        prices: Sequence[Price],
        batch: BatchSpec | None = None,
        into: bytes | None = None,
        slots: int = 1,
    ) -> Accepted:
        """Submit tasks of several kinds, where so many can run at once."""
        return await self.store.submit(
            Submission(1, kinds, prices, tasks, batch=batch, into=into, slots=slots)
        )

    async def task(self, task: bytes) -> TaskRow:
        """The task as it can be read."""
        row = await self.store.task(task, None)
        assert row is not None
        return row

    async def state(self, task: bytes) -> str:
        """Where a task is in its life."""
        return (await self.task(task)).state.word

    async def error_kind(self, task: bytes) -> object:
        """Why a task failed."""
        row = await self.task(task)
        assert row.encoding is Encoding.ERROR and row.outcome is not None
        return msgspec.json.decode(row.outcome)["kind"]

    async def batch(self, identifier: bytes | None) -> BatchRow:
        """The batch as it can be read."""
        assert identifier is not None
        row = await self.store.batch(identifier, None)
        assert row is not None
        return row

    async def advance(self, seconds: float) -> None:
        """Let time pass, and do what is due."""
        self.clock.advance(seconds)
        await self.store.expire()

    # ---- workers

    async def worker(self, **options: Any) -> Worker:
        """A worker that has joined."""
        worker = Worker(self, **options)
        await worker.join()
        return worker

    async def plain_lease(self, token: int = 9, *, wait: float = 0.0) -> Dealt | None:
        """One task for a plain worker, for as long as a session's."""
        return await self.store.plain_lease(
            token, wait_until=self.clock.now + wait, seconds=LEASE_SECONDS
        )

    async def plain_answer(
        self, task: bytes, answer: bytes | None = b"2.0", *, token: int = 9
    ) -> Decided:
        """A plain worker's answer; None: the function raised."""
        outcome, encoding = ("succeeded", Encoding.JSON) if answer else ("failed", Encoding.ERROR)
        report = AttemptReport(
            None, outcome, encoding, answer or b"{}", error_kind="exception", task=task
        )
        return await self.store.plain_answer(token, report)


class Worker:
    """One agent: it joins, and exchanges with rising numbers."""

    def __init__(
        self,
        world: World,
        *,
        token: int = 1,
        slots: int = 100,
        pythons: Sequence[str] = ("3.11",),
        sandbox: int = 0,
        **resources: Any,
    ) -> None:
        self.world = world
        self.token = token
        self.facts = WorkerFacts(
            name="w", slots=slots, pythons=tuple(pythons), sandbox=sandbox, **resources
        )
        self.id: str | None = None
        self.session = ""
        self.number = 0
        self.seen = 0

    async def join(self) -> None:
        """Begin a session."""
        self.session = f"s{next(self.world._sessions)}"
        self.number = self.seen = 0
        self.id = await self.world.store.join(
            JoinRequest(self.id, self.token, self.facts, self.session)
        )

    async def exchange(
        self,
        *reports: AttemptReport,
        want: int = 0,
        wait: float = 0.0,
        held: list[Held] | None = None,
        number: int | None = None,
        draining: bool = False,
        environments: Sequence[EnvironmentState] = (),
        is_lost: bool = False,
        is_patient: bool = False,
    ) -> ExchangeResult:
        """Report and ask; `is_lost`: the reply never arrives."""
        self.number = number or self.number + 1
        mine = self.number
        result = await self.world.store.exchange(
            ExchangeRequest(
                worker=self.id or "",
                session=self.session,
                token=self.token,
                number=mine,
                seen=self.seen,
                want=want,
                wait_until=self.world.clock.now + wait,
                draining=draining,
                reports=list(reports),
                held=held,
                environments=list(environments),
                is_patient=is_patient,
            )
        )
        if not is_lost:
            self.seen = max(self.seen, mine)
        return result

    async def take(self, count: int = 1, **options: Any) -> list[Dealt]:
        """Lease up to `count` tasks."""
        return (await self.exchange(want=count, **options)).tasks

    async def take_one(self) -> Dealt:
        """Lease the task that is there."""
        (dealt,) = await self.take()
        return dealt

    async def report(self, *reports: AttemptReport) -> list[int]:
        """Report, and see that it arrived; the statuses."""
        return [decided.status for decided in (await self.exchange(*reports)).decisions]


async def drain(worker: Worker, *, at_once: int = 300) -> list[bytes]:
    """Lease and finish everything; the ids in the order they came."""
    order: list[bytes] = []
    dealt = await worker.take(at_once)
    while dealt:
        order += ids(dealt)
        result = await worker.exchange(*map(succeeded, dealt), want=at_once)
        dealt = result.tasks
        if not dealt:
            dealt = await worker.take(at_once)
    return order
