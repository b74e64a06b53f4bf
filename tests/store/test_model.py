"""The store beside the executable model of delivery: the same calls, the same outcome.

TASK_SERVER_MODEL_RUNS sets how many runs are tried.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from task_server.errors import Conflict
from task_server.protocol.ids import new_id
from task_server.protocol.workers import Phase
from task_server.scheduling.requires import Requires
from task_server.store.attempts import AttemptReport, Dealt
from task_server.store.contract_learning import NewPrice
from task_server.store.records.retention import Keep
from task_server.store.rows import TaskFilter
from task_server.store.states import Encoding
from task_server.store.submissions import IdempotencyKey
from tests.delivery_model import PURGED, QUEUED, RUNNING
from tests.store.delivery import BACKOFF, LABELS, Agent, Delivery, success
from tests.store.retained import purge
from tests.store.sqlite.world import SqliteWorld, folder_in_memory
from tests.store.world import (
    World,
    lease_of,
    new_task,
    spec,
)

RUNS = int(os.environ.get("TASK_SERVER_MODEL_RUNS", "60"))
TIMEOUT_SECONDS = 120 + 10 * RUNS
OWNERS = {"u0": 1, "u1": 2}
ENVIRONMENTS = {"e": "e" * 64, "f": "f" * 64, "g": None}
"""`g` has no lock at first."""
PLAIN = {"p0": 10, "p1": 11}
SESSIONS = {"w0": LABELS, "w1": LABELS, "w2": {}}
"""Workers and their labels."""
MEMORY = 10_000
"""Of each; what requires labels takes one byte, and with it a slot alone."""

RETENTION = 600.0
KEEP = Keep(read=1e9, unread=RETENTION + 0.1, failed=RETENTION + 0.1)
"""The model purges what is older than that, the store what is as old."""

T = TypeVar("T")


class StoreMachine(RuleBasedStateMachine):
    """Drives a store and the model side by side."""

    def __init__(self, new_world: Callable[[], AbstractContextManager[World]]) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.exits = ExitStack()
        self.world = self.exits.enter_context(new_world())
        self.model = Delivery(retention=RETENTION)
        self.ids: list[bytes] = []
        self.leases: list[tuple[str, Dealt]] = []
        self.agents: dict[str, Agent] = {}
        self.has_failed = False
        """The lock of `g` failed for good, so far."""

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    @initialize()
    def open(self) -> None:
        self.do(self._open())

    async def _open(self) -> None:
        await self.world.start()
        self.start = self.world.clock.now
        for name, labels in SESSIONS.items():
            worker = await self.world.worker(labels=labels, memory=MEMORY)
            self.agents[name] = Agent(name, worker, self.model)
            if labels:
                self.model.have_labels.add(name)

    def teardown(self) -> None:
        try:
            if self.agents:
                self.do(self._drain())
                self.do(self.world.recount())
                self.do(self.world.close())
        finally:
            self.runner.close()
            self.exits.close()

    async def _drain(self) -> None:
        """Quiescence: with idle workers every task comes to its end."""
        await self._lock()
        worker = await self.world.worker(slots=10_000, labels=LABELS, memory=MEMORY)
        for _ in range(400):
            await self.world.advance(61)
            result = await worker.exchange(want=10_000)
            await worker.exchange(*[success(dealt, b"end") for dealt in result.tasks])
            rows = await self.world.store.tasks(TaskFilter(owner=None, limit=10_000))
            if all(row.state.is_terminal for row in rows):
                return
        raise AssertionError("open tasks although a worker is idle")

    # ---- comparing

    async def compare(self) -> None:
        """Do what is due on both sides; then every task must be the same."""
        self.model.now = self.world.clock.now - self.start
        self.model.sweep()
        await self.world.store.expire()
        await purge(self.world, KEEP)
        rows = await self.world.store.tasks(TaskFilter(owner=None, limit=10_000))
        actual = {row.id: (row.state.word, row.generation, row.attempt) for row in rows}
        expected = {
            task.id: (task.state, task.generation, task.attempt)
            for task in self.model.tasks.values()
            if task.state != PURGED
        }
        assert actual == expected
        for row in rows:
            task = self.model.tasks[row.id]
            assert task.result is None or row.outcome == task.result
        self.model.check()
        await self.world.recount()

    def new_id(self) -> bytes:
        """A young one: its row outlives its payloads."""
        return new_id(at=self.world.clock.now)

    def some_id(self, k: int) -> bytes:
        return self.ids[k % len(self.ids)] if self.ids else self.new_id()

    def some_lease(self, k: int) -> tuple[str, Dealt] | None:
        if not self.leases:
            return None
        is_recent = k < 20
        return self.leases[-1 - k % min(3, len(self.leases)) if is_recent else k % len(self.leases)]

    # ---- users

    who = st.sampled_from(sorted(OWNERS))
    number = st.integers(0, 30)

    @rule(
        who=who,
        known=st.one_of(st.none(), number),
        key=st.sampled_from([None, None, "k0", "k1"]),
        body=st.sampled_from([b"a", b"b"]),
        attempts=st.integers(1, 3),
        at_most_once=st.booleans(),
        start_by=st.sampled_from([None, None, 50.0, 400.0]),
        environment=st.sampled_from(["e", "e", "f", "g"]),
        labels=st.sampled_from([{}, {}, LABELS]),
        priority=st.sampled_from([0, 0, 5]),
    )
    def submit(
        self,
        who: str,
        known: int | None,
        key: str | None,
        body: bytes,
        attempts: int,
        at_most_once: bool,
        start_by: float | None,
        environment: str,
        labels: dict[str, str],
        priority: int,
    ) -> None:
        task = self.new_id() if known is None else self.some_id(known)
        now = self.world.clock.now
        status, told = self.model.submit(
            who,
            task,
            body,
            key,
            max_attempts=attempts,
            at_most_once=at_most_once,
            environment=environment,
            start_by=None if start_by is None else now - self.start + start_by,
        )
        kind = spec(
            owner=OWNERS[who],
            max_attempts=attempts,
            at_most_once=at_most_once,
            backoff=BACKOFF,
            request=environment,
            environment=ENVIRONMENTS[environment],
            requires=Requires(memory=1, labels=tuple(labels.items())).text if labels else "",
            plain=not labels,
            priority=priority,
        )
        item = new_task(task, digest=body, start_by=None if start_by is None else now + start_by)

        async def work() -> None:
            wanted = None if key is None else IdempotencyKey(key, body)
            try:
                accepted = await self.world.submit(item, kind=kind, key=wanted)
            except Conflict:
                assert status == 409
            else:
                assert status == 200
                assert (accepted.ids[0], accepted.duplicate) == (
                    told["id"],
                    told.get("duplicate", False),
                )
            await self.compare()

        if task not in self.ids and told.get("id") == task:
            self.ids.append(task)
            if labels:
                self.model.labelled.add(task)
        if environment == "g" and status == 200 and "duplicate" not in told:
            self.has_failed = False  # a new task has it locked again
        self.do(work())

    @rule(who=who, k=number)
    def cancel(self, who: str, k: int) -> None:
        task = self.some_id(k)
        status, _ = self.model.cancel(who, task)

        async def work() -> None:
            assert await self.world.store.cancel(OWNERS[who], [task]) == [status]
            await self.compare()

        self.do(work())

    @rule(who=who, k=number)
    def retry(self, who: str, k: int) -> None:
        task = self.some_id(k)
        status, _ = self.model.retry(who, task)
        if status == 200 and self.model.tasks[task].environment == "g":
            self.has_failed = False

        async def work() -> None:
            assert await self.world.store.retry(OWNERS[who], [task]) == [status]
            await self.compare()

        self.do(work())

    # ---- the estimator

    @rule(
        which=st.lists(number, min_size=1, max_size=5, unique=True),
        predicted=st.sampled_from([0.001, 3.0, 100.0]),
        is_outdated=st.booleans(),
    )
    def reprice(self, which: list[int], predicted: float, is_outdated: bool) -> None:
        tasks = {self.some_id(k) for k in which} & self.model.tasks.keys()
        self.do(self._reprice(tasks, predicted, is_outdated))

    async def _reprice(self, tasks: set[bytes], predicted: float, is_outdated: bool) -> None:
        rows = [await self.world.store.task(task, None) for task in tasks]
        prices = [
            NewPrice(row.number, row.attempt + is_outdated, predicted, 2 * predicted)
            for row in rows
            if row is not None
        ]
        wait = sum(self.model.tasks[task].state == QUEUED for task in tasks)

        assert await self.world.store.reprice(prices) == (0 if is_outdated else wait)

        await self.compare()

    # ---- workers

    @rule(
        name=st.sampled_from(sorted(SESSIONS)),
        reports=st.lists(
            st.tuples(
                number,
                st.sampled_from(["ok", "ok", "error", "final", "crashed", "released", "unfit"]),
                st.sampled_from([b"1", b"2"]),
            ),
            max_size=3,
        ),
        want=st.integers(0, 2),
        keeps=st.sampled_from([None, None, "all", "half", "none"]),
        phase=st.sampled_from(["leased", "installing", "running"]),
        is_lost=st.booleans(),
    )
    def exchange(
        self,
        name: str,
        reports: list[tuple[int, str, bytes]],
        want: int,
        keeps: str | None,
        phase: Phase,
        is_lost: bool,
    ) -> None:
        self.do(self._exchange(name, reports, want, keeps, phase, is_lost))

    async def _exchange(
        self,
        name: str,
        wanted: list[tuple[int, str, bytes]],
        want: int,
        keeps: str | None,
        phase: Phase,
        is_lost: bool,
    ) -> None:
        agent = self.agents[name]
        await agent.stay_known()
        reports, decisions = agent.reports(
            [(self.some_lease(k), outcome, value) for k, outcome, value in wanted]
        )
        agent.renew()
        agent.lose_older()
        said, stops = agent.hold(keeps, phase, {report.lease for report in reports})

        result = await agent.worker.exchange(*reports, want=want, held=said, is_lost=is_lost)

        assert [(each.status, each.duplicate) for each in result.decisions] == decisions
        assert stops <= set(result.stop)
        self.leases += [(name, dealt) for dealt in agent.dealt(result.tasks, want)]
        await self.compare()

    @rule(name=st.sampled_from(sorted(SESSIONS)))
    def join(self, name: str) -> None:
        async def work() -> None:
            await self.agents[name].join()
            await self.compare()

        self.do(work())

    @rule(name=st.sampled_from(sorted(PLAIN)))
    def plain_lease(self, name: str) -> None:
        async def work() -> None:
            dealt = await self.world.plain_lease(PLAIN[name])
            assert (dealt is None) == (not self.model.fitting(name))
            if dealt is not None:
                self.model.lease(name, lease_of(dealt).text, chosen=dealt.id, renews=False)
                self.leases.append((name, dealt))
            await self.compare()

        self.do(work())

    @rule(
        name=st.sampled_from(sorted(PLAIN)),
        k=number,
        is_success=st.booleans(),
        value=st.sampled_from([b"1", b"2"]),
    )
    def plain_answer(self, name: str, k: int, is_success: bool, value: bytes) -> None:
        task = self.some_id(k)
        status, told = self.model.answer(name, task, value, ok=is_success)

        async def work() -> None:
            report = AttemptReport(
                None,
                "succeeded" if is_success else "failed",
                Encoding.JSON if is_success else Encoding.ERROR,
                value,
                error_kind="exception",
                task=task,
            )
            decided = await self.world.store.plain_answer(PLAIN[name], report)
            assert (decided.status, decided.duplicate) == (status, told.get("duplicate", False))
            await self.compare()

        self.do(work())

    # ---- the server

    @rule(seconds=st.sampled_from([0.5, 2.0, 30.0, 61.0, 700.0]))
    def advance(self, seconds: float) -> None:
        self.world.clock.advance(seconds)
        self.do(self.compare())

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        self.model.restart()
        if self.world.forgets_phases:  # to take them as started is the safe way
            self.model.started |= {
                task.lease for task in self.model.tasks.values() if task.state == RUNNING
            }

        async def work() -> None:
            await (self.world.kill() if is_killed else self.world.restart())
            await self.compare()

        self.do(work())

    @precondition(lambda self: "g" in self.model.unlocked and not self.has_failed)
    @rule(succeeds=st.booleans())
    def lock(self, succeeds: bool) -> None:
        if not any(task.environment == "g" for task in self.model.tasks.values()):
            return
        if succeeds:
            self.model.unlocked.discard("g")
            self.do(self._lock())
        else:
            for task in self.model.tasks.values():
                if task.environment == "g":
                    self.model.lock_failed(task.id)
            self.has_failed = True
            self.do(self.world.store.lock_failed("g", "no such package"))
        self.do(self.compare())

    async def _lock(self) -> None:
        await self.world.store.locked("g", environment="9" * 64, python="3.11", lock="")


@contextmanager
def sqlite_world() -> Iterator[World]:
    with folder_in_memory() as folder:
        yield SqliteWorld(folder)


def run(
    new_world: Callable[[], AbstractContextManager[World]],
    runs: int,
    machine: type[StoreMachine] = StoreMachine,
) -> None:
    run_state_machine_as_test(
        lambda: machine(new_world),  # type: ignore[arg-type]  # a factory is taken too
        settings=settings(
            max_examples=runs,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.timeout(TIMEOUT_SECONDS)
def test_sqlite_does_what_the_model_does() -> None:
    run(sqlite_world, RUNS)
