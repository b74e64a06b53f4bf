"""What a server looks at before it deals: enough, in order, and no more than it needs."""

from __future__ import annotations

from typing import Any

import pytest

from task_server.store.postgres.group import Group
from task_server.store.postgres.lease import OWNERS
from task_server.store.postgres.look import _LOOK
from tests.store.postgres.pair import Pair
from tests.store.postgres.world import PostgresWorld
from tests.store.world import drain, ids, new_task, released, spec, succeeded


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each look gave."""
    found: list[int] = []
    fetch = Group.fetch

    async def watched(group: Group, sql: str, *values: object) -> list[Any]:
        rows = await fetch(group, sql, *values)
        if sql == _LOOK:
            found.append(len(rows))
        return rows

    monkeypatch.setattr(Group, "fetch", watched)
    return found


async def test_many_owners_are_not_all_looked_at_for_one_task(
    world: PostgresWorld, looks: list[int]
) -> None:
    owners = 5 * OWNERS
    for owner in range(1, owners + 1):
        await world.submit(count=2, kind=spec(owner=owner))
    worker = await world.worker(slots=1000)
    looks.clear()

    dealt = [await worker.take_one() for _ in range(owners)]

    assert {each.kind.spec.owner for each in dealt} == set(range(1, owners + 1)), "in turn"
    assert max(looks) <= 2 * OWNERS


async def test_owners_whose_tasks_do_not_fit_are_passed(world: PostgresWorld) -> None:
    worker = await world.worker()
    for owner in range(1, 3 * OWNERS):
        await world.submit(kind=spec(owner=owner, request=f"r{owner}", environment=f"{owner:064}"))
    dealt = await worker.take(2 * OWNERS)
    await worker.report(*[released(each, unfit=True) for each in dealt])

    rest = await worker.take(100)

    assert len(rest) == OWNERS - 1


async def test_a_long_lane_is_looked_at_in_growing_steps(
    world: PostgresWorld, looks: list[int]
) -> None:
    tasks = [new_task() for _ in range(500)]
    await world.submit(*tasks)
    worker = await world.worker(slots=400)
    looks.clear()

    dealt = await worker.take(400)

    assert sorted(ids(dealt)) == sorted(task.id for task in tasks[:400])
    assert ids(dealt) == [task.id for task in tasks[:400]]
    assert len(looks) <= 7 and sum(looks) <= 500
    looks.clear()
    await worker.report(*map(succeeded, dealt))
    assert ids(await worker.take(100)) == [task.id for task in tasks[400:]]
    assert len(looks) == 1, "it remembers how much was taken"


async def test_tasks_of_the_group_come_after_those_that_wait(world: PostgresWorld) -> None:
    before = await world.submit(count=20)
    worker = await world.worker(slots=100)

    result, accepted = await world.together(worker.exchange(want=30), world.submit(count=20))

    assert ids(result.tasks) == before.ids + accepted.ids[:10]
    assert ids(await worker.take(100)) == accepted.ids[10:]


async def test_tasks_of_the_group_that_nobody_took_wait_in_order(world: PostgresWorld) -> None:
    worker = await world.worker(slots=100)
    first = [new_task(start_by=world.clock.now + 5) for _ in range(3)]
    second = [new_task(payload=b"x" * 2000) for _ in range(3)]

    result, _, _ = await world.together(
        worker.exchange(want=2), world.submit(*first), world.submit(*second)
    )

    assert ids(result.tasks) == [task.id for task in first[:2]]
    order = await drain(worker)
    assert order == [first[2].id] + [task.id for task in second]


async def test_a_start_that_was_in_time_is_remembered(world: PostgresWorld) -> None:
    worker = await world.worker()
    task, late = (new_task(start_by=world.clock.now + 5) for _ in range(2))

    result, _ = await world.together(worker.exchange(want=1), world.submit(task, late))
    await world.advance(6)

    assert ids(result.tasks) == [task.id]
    assert [await world.state(each.id) for each in (task, late)] == ["running", "expired"]


async def test_a_lower_task_of_another_server_is_found_within_seconds(database: str) -> None:
    pair = Pair(database)
    await pair.start()
    try:
        first = await pair.one.submit(count=100)
        worker, other = await pair.one.worker(slots=100), await pair.two.worker(slots=100)
        dealt = await worker.take(10)
        assert ids(await other.take(10)) == first.ids[10:20]

        await worker.report(released(dealt[0]))
        await pair.two.store.read(lambda rows: rows.fetch("SELECT pg_sleep(0.1)"))

        assert ids(await other.take(1)) == [dealt[0].id], "it was told"
    finally:
        await pair.close()
