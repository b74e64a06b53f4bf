"""The hot verbs of the store: what each takes, gives and promises.

Every verb takes a batch and is one transaction; it returns when that is on disk. Verbs of many
requests share transactions (group commit). Times are Unix seconds by the store's clock, `now`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from task_server.store.contract_environments import EnvironmentStore
from task_server.store.contract_explain import ExplainStore
from task_server.store.contract_learning import LearningStore
from task_server.store.contract_orders import OrderStore
from task_server.store.contract_upkeep import UpkeepStore

if TYPE_CHECKING:
    from task_server.scheduling.statistics import Statistics
    from task_server.store.attempts import AttemptReport, Dealt, Decided
    from task_server.store.kinds import FunctionKey, Kind
    from task_server.store.records.tokens import Token
    from task_server.store.records.workers import WorkerRow
    from task_server.store.rows import (
        AnswerRow,
        BatchRow,
        DatabaseHealth,
        Ended,
        TaskFilter,
        TaskRow,
    )
    from task_server.store.sessions import (
        ExchangeRequest,
        ExchangeResult,
        JoinRequest,
        LiveSession,
    )
    from task_server.store.submissions import Accepted, BatchSpec, Submission
    from task_server.store.transitions import Policy


class Store(EnvironmentStore, OrderStore, UpkeepStore, LearningStore, ExplainStore, Protocol):
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

        With `unstarted` what runs goes on; of it ends what its worker gives back, for which it is
        asked, as it has not started.
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

    async def token(self, digest: bytes) -> Token | None:
        """The valid token with that digest."""

    async def owner_named(self, name: str) -> int:
        """The owner of that name, made if need be."""

    async def workers(self) -> list[WorkerRow]:
        """All workers that ever joined, newest first."""
