"""What a reply promises: it is sent when the commit is as durable as the database can make it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from task_server.errors import Unavailable
from task_server.store.postgres import connection as module
from task_server.store.postgres import groups, servers
from tests.postgres import Cluster, Databases, cluster
from tests.store.postgres.recount import recount_tables
from tests.store.postgres.world import PostgresWorld
from tests.store.world import new_task, spec, succeeded


@pytest.fixture(scope="module")
def durable() -> Iterator[Cluster]:
    with cluster("shared_buffers=32MB") as running:
        yield running


@pytest.fixture(scope="module")
def durable_databases(durable: Cluster) -> Databases:
    return Databases(durable)


@pytest.fixture
async def world(durable: Cluster, durable_databases: Databases) -> AsyncIterator[PostgresWorld]:
    databases = durable_databases
    name = databases.make()
    world = PostgresWorld(durable.url(name))
    await world.start()
    yield world
    await recount_tables(durable.url(name))  # a store finds its lanes again within a second
    await world.close()
    databases.drop(name)


async def wait_for_standbys(cluster: Cluster, names: str) -> None:
    """Have every commit wait for these standbys from now on."""
    cluster.do(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'", "SELECT pg_reload_conf()")
    while cluster.do("SHOW synchronous_standby_names")[0][0] != names:  # noqa: ASYNC110  # of it
        await asyncio.sleep(0.01)
    # Backends read it when they are idle, a moment later.
    await asyncio.sleep(0.1)


async def test_what_no_standby_confirmed_is_not_acknowledged(
    durable: Cluster, world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.3)
    monkeypatch.setattr(groups, "GROUP_SECONDS", 1.0)
    monkeypatch.setattr(servers, "RETRY_SECONDS", 0.5)
    task = new_task()
    await wait_for_standbys(durable, "nobody")
    try:
        with pytest.raises(Unavailable):
            await world.submit(task)
    finally:
        await wait_for_standbys(durable, "")

    # Trying again is safe: it may have been taken, once.
    assert (await world.submit(task)).ids == [task.id]
    worker = await world.worker()
    dealt = await worker.take_one()
    assert await worker.report(succeeded(dealt)) == [200]
    assert await worker.take(5) == []


async def test_an_acknowledged_task_is_there_after_a_crash(
    durable: Cluster, world: PostgresWorld
) -> None:
    accepted = await world.submit(count=3)
    worker = await world.worker()
    dealt = await worker.take_one()
    assert await worker.report(succeeded(dealt)) == [200]

    await durable.restart_from()

    states = sorted([await world.state(task) for task in accepted.ids])
    assert states == ["queued", "queued", "succeeded"]


async def test_a_standby_that_lacks_the_latest_is_worked_with_as_it_is(
    durable: Cluster, world: PostgresWorld
) -> None:
    (old,) = (await world.submit(kind=spec(function="old"))).ids
    await world.plain_lease()
    standby = await durable.copied()
    lost = await world.submit(kind=spec(function="lost", request="lost", owner=7))
    await world.plain_lease(token=77)

    await durable.restart_from(standby)

    # What was numbered since means nothing any more: others get the same numbers.
    other = await world.submit(kind=spec(function="other", request="other"))
    another = await world.submit(kind=spec(function="lost", request="lost", owner=7))
    assert await world.store.task(lost.ids[0], None) is None
    for task, name in ((old, "old"), (other.ids[0], "other"), (another.ids[0], "lost")):
        assert (await world.task(task)).spec.function == name
    await world.plain_lease(token=78)
    worker = await world.worker()
    dealt = {each.id: each.kind.spec.function for each in await worker.take(5)}
    assert set(dealt.values()) <= {"other", "lost"} and len(dealt) == 1
