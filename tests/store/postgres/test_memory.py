"""What a server keeps in memory, and reads again: bounded, whatever comes."""

from __future__ import annotations

import pytest

from task_server.protocol.workers import EnvironmentState
from task_server.store.postgres.held import MAXIMUM_ENVIRONMENTS
from task_server.store.postgres.memory import MAXIMUM_SESSIONS
from task_server.store.postgres.shares import Ledger
from task_server.store.sessions import ExchangeRequest
from tests.store.postgres.world import PostgresWorld
from tests.store.retained import count
from tests.store.world import held, new_task, spec, succeeded


async def test_running_tasks_past_their_start_by_do_not_hold_up_others(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.postgres.sweep.LIMIT", 5)
    running = [new_task(start_by=world.clock.now + 1) for _ in range(10)]
    await world.submit(*running)
    worker = await world.worker()
    await worker.take(10)
    waiting = new_task(start_by=world.clock.now + 2)
    await world.submit(waiting)

    await world.advance(3)

    assert await world.state(waiting.id) == "expired"


async def test_the_environments_of_a_worker_are_bounded(world: PostgresWorld) -> None:
    worker = await world.worker()
    states = [EnvironmentState(f"{n:064x}", "ready") for n in range(MAXIMUM_ENVIRONMENTS + 50)]

    await world.store.exchange(
        ExchangeRequest(worker.id or "", worker.session, 1, 1, 0, 0, 0.0, False, [], None, states)
    )

    assert await count(world, "worker_environments") == MAXIMUM_ENVIRONMENTS
    (session,) = await world.store.sessions()
    assert len(session.environments) == MAXIMUM_ENVIRONMENTS
    await worker.join()
    assert await count(world, "worker_environments") == 0, "a session tells of its own"


async def test_kinds_are_read_again_as_needed(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.postgres.memory.MAXIMUM_KINDS", 3)
    kinds = [spec(tags=(str(n),)) for n in range(10)]
    for kind in kinds * 2:
        await world.submit(kind=kind)
    worker = await world.worker()

    dealt = await worker.take(100)

    assert [each.kind.spec for each in dealt] == kinds * 2
    assert await worker.report(*map(succeeded, dealt)) == [200] * 20


async def test_sessions_are_remembered_up_to_a_number(world: PostgresWorld) -> None:
    memory = world.store.memory
    memory.phases.update((n, {}) for n in range(-MAXIMUM_SESSIONS, 0))
    memory.spoken.update((n, 1) for n in range(-MAXIMUM_SESSIONS, 0))
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    await worker.exchange(held=[held(dealt, "running")])
    await worker.exchange()

    assert len(memory.phases) == len(memory.spoken) == MAXIMUM_SESSIONS
    assert world.store.phase(dealt.number) == "running"


async def test_stops_are_told_once_and_not_kept(world: PostgresWorld) -> None:
    accepted = await world.submit(count=3)
    worker = await world.worker()
    await worker.take(3)
    await world.store.cancel(1, accepted.ids)
    assert await count(world, "stops") == 3

    assert len((await worker.exchange()).stop) == 3

    assert await count(world, "stops") == 0


async def test_an_ended_session_and_a_plain_worker_are_not_told_to_stop(
    world: PostgresWorld,
) -> None:
    accepted = await world.submit(count=2)
    worker = await world.worker()
    await worker.take_one()
    await world.plain_lease()
    await worker.join()

    assert await world.store.cancel(1, accepted.ids) == [200, 200]

    assert await count(world, "stops") == 0


# ---- shares


def test_a_group_that_is_undone_charges_nobody() -> None:
    ledger = Ledger({1: 10.0, 2: 20.0}, active=[1, 2])
    ledger.begin([1, 2, 3])
    ledger.charge(1, 5.0)
    ledger.settle(2, predicted=3.0, seconds=1.0)

    ledger.undo()

    assert ledger.charged == {1: 10.0, 2: 20.0}
    assert ledger.active == {1, 2} and ledger.is_written


def test_what_is_told_to_others_are_differences_and_lifts() -> None:
    ledger = Ledger({1: 10.0, 2: 20.0}, active=[1, 2])
    ledger.begin([1, 2, 3])
    ledger.charge(3, 5.0)
    ledger.settle(1, predicted=30.0, seconds=1.0)

    ledger.keep()

    assert ledger.lifted == {3: 10.0}
    assert dict(ledger.moved) == {3: 5.0, 1: -10.0}, "a share is never negative"
    ledger.take({1: 1.0, 2: 20.0, 3: 15.0})
    assert ledger.is_written and ledger.charged[3] == 15.0
