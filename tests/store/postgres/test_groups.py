"""Groups that fail: run again whole, found done already, or told apart to find the culprit."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from task_server.errors import Invalid, Unavailable
from task_server.store.postgres.connection import Connection
from task_server.store.submissions import IdempotencyKey
from tests.store.postgres.pair import until
from tests.store.postgres.world import PostgresWorld
from tests.store.world import batch, crashed, failed, ids, new_task, spec, succeeded


class Breaks:
    """Has the next commits end with a lost connection."""

    def __init__(self) -> None:
        self.after = 0
        """So many that were done, though nobody hears of it."""
        self.before = 0
        """So many that were not."""


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Breaks]:
    breaks = Breaks()
    commit = Connection.commit

    async def break_or_commit(connection: Connection) -> None:
        if breaks.before:
            breaks.before -= 1
            connection.terminate()
            raise ConnectionResetError
        await commit(connection)
        if breaks.after:
            breaks.after -= 1
            connection.terminate()
            raise ConnectionResetError

    monkeypatch.setattr(Connection, "commit", break_or_commit)
    yield breaks
    assert not breaks.after and not breaks.before, "nothing was committed"


async def count(world: PostgresWorld, table: str) -> int:
    rows = await world.store.read(lambda rows: rows.fetch(f"SELECT count(*) FROM {table}"))
    return int(rows[0][0])


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_submit_is_stored_once(world: PostgresWorld, breaks: Breaks, is_done: bool) -> None:
    breaks.after, breaks.before = (2, 0) if is_done else (0, 2)
    tasks = [new_task(), new_task(digest=None)]

    accepted = await world.submit(*tasks)

    assert accepted.ids == [task.id for task in tasks]
    assert await count(world, "tasks") == 2


async def test_a_batch_that_the_server_named_is_made_once(
    world: PostgresWorld, breaks: Breaks
) -> None:
    breaks.after = 1
    made = batch(digest=None)

    accepted = await world.submit(new_task(digest=None), new_task(digest=None), batch=made)

    assert accepted.batch == made.id
    assert (await world.batch(made.id)).total == await count(world, "tasks") == 2


async def test_a_key_is_used_once(world: PostgresWorld, breaks: Breaks) -> None:
    breaks.after = 1
    key = IdempotencyKey("k", b"1" * 16)
    task = new_task(digest=None)

    first = await world.submit(task, key=key)

    assert first.ids == [task.id]
    assert (await world.submit(new_task(digest=None), key=key)).ids == first.ids
    assert await count(world, "tasks") == 1


async def test_an_open_batch_grows_once(world: PostgresWorld, breaks: Breaks) -> None:
    opened = batch(is_open=True)
    await world.store.open_batch(1, opened)
    breaks.after = 1

    await world.submit(new_task(), new_task(digest=None), into=opened.id)

    assert (await world.batch(opened.id)).total == await count(world, "tasks") == 2


@pytest.mark.parametrize("is_done", [True, False])
async def test_what_was_leased_is_in_the_reply(
    world: PostgresWorld, breaks: Breaks, is_done: bool
) -> None:
    accepted = await world.submit(count=3)
    worker = await world.worker()
    breaks.after, breaks.before = (1, 0) if is_done else (0, 1)

    dealt = await worker.take(2)

    assert (ids(dealt), [each.attempt for each in dealt]) == (accepted.ids[:2], [1, 1])
    assert await worker.report(*map(succeeded, dealt)) == [200, 200]


@pytest.mark.parametrize("is_done", [True, False])
async def test_what_a_parked_worker_was_given_reaches_it(
    world: PostgresWorld, breaks: Breaks, is_done: bool
) -> None:
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=20))
    await until(lambda: bool(world.store.memory.parked))
    breaks.after, breaks.before = (1, 0) if is_done else (0, 1)

    accepted = await world.submit(count=2)

    dealt = await parked
    assert (ids(dealt), [each.attempt for each in dealt]) == (accepted.ids, [1, 1])
    assert await worker.report(*map(succeeded, dealt)) == [200, 200]


async def test_who_waits_hears_of_ends_that_nobody_told(
    world: PostgresWorld, breaks: Breaks
) -> None:
    accepted = await world.submit(count=3, kind=spec(max_attempts=2))
    world.store.watched = lambda: (set(accepted.ids), ())
    worker = await world.worker()
    done, bad, dead = await worker.take(3)
    breaks.after = 1

    statuses = await worker.report(succeeded(done), failed(bad), crashed(dead))

    assert statuses == [200, 200, 409], "a crash that is counted already is not counted again"
    await until(lambda: bool(world.ended))
    assert [each.id for each in world.ended] == [done.id]
    assert [await world.state(each.id) for each in (bad, dead)] == ["delayed", "delayed"]


async def test_a_cancel_a_join_and_a_retry_are_done(world: PostgresWorld, breaks: Breaks) -> None:
    accepted = await world.submit()
    breaks.after = 1
    assert await world.store.cancel(1, accepted.ids) == [200]
    breaks.after = 1
    worker = await world.worker()

    assert await world.store.retry(1, accepted.ids) == [200]
    assert ids(await worker.take()) == accepted.ids
    assert await count(world, "workers") == 1


async def test_places_are_not_given_twice(world: PostgresWorld, breaks: Breaks) -> None:
    accepted = await world.submit(count=3)
    for task in accepted.ids:
        breaks.after = 1
        await world.store.cancel(1, [task])

    rows = await world.store.read(lambda rows: rows.fetch("SELECT n FROM tasks ORDER BY n"))
    assert len({n for (n,) in rows}) == 3


async def test_a_connection_that_was_ended_is_made_anew(world: PostgresWorld) -> None:
    await world.submit()
    await world.do(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )

    await world.submit()

    assert await count(world, "tasks") == 2


async def test_only_the_culprit_fails(world: PostgresWorld) -> None:
    good, bad, other = await world.together(
        world.submit(), world.submit(batch=batch(expected=2**70)), world.submit()
    )

    assert isinstance(bad, Unavailable)
    assert not isinstance(good, BaseException) and not isinstance(other, BaseException)
    assert await count(world, "tasks") == 2


async def test_what_raises_in_a_write_undoes_it(world: PostgresWorld) -> None:
    async def work(rows: object) -> None:
        await rows.execute("DELETE FROM servers")  # type: ignore[attr-defined]  # of the store's
        raise Invalid("no")

    with pytest.raises(Invalid):
        await world.store.write(work)

    assert await count(world, "servers") == 1


async def test_signs_that_the_database_cannot_hold_are_refused(world: PostgresWorld) -> None:
    with pytest.raises(Invalid):
        await world.submit(batch=batch(name="a\0b"))
    with pytest.raises(Invalid):
        await world.submit(key=IdempotencyKey("a\0b", b"1" * 16))


async def test_a_database_that_is_gone_is_told_as_unavailable(
    world: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.postgres.servers.RETRY_SECONDS", 0.5)
    worker = await world.worker()
    parked = asyncio.create_task(worker.take(5, wait=30))
    await until(lambda: bool(world.store.memory.parked))
    url, world.store._url = world.store._url, "postgresql://postgres@127.0.0.1:1/nothing"
    assert world.store._connection is not None
    world.store._connection.terminate()

    with pytest.raises(Unavailable):
        await world.submit()

    assert not parked.done(), "workers stay parked"
    world.store._url = url
    accepted = await world.submit()
    assert ids(await parked) == accepted.ids


async def test_deadlocks_are_run_again(world: PostgresWorld) -> None:
    accepted = await world.submit(count=2)
    other = await asyncpg.connect(world.url)
    try:
        transaction = other.transaction()
        await transaction.start()
        lock = "SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE"
        await other.execute(lock, accepted.ids[1])
        cancelling = asyncio.create_task(world.store.cancel(1, accepted.ids))
        await asyncio.sleep(0.2)
        with pytest.raises((asyncpg.DeadlockDetectedError, asyncio.TimeoutError)):
            async with asyncio.timeout(5):
                await other.execute(lock, accepted.ids[0])
                raise TimeoutError  # it was the store's turn to give way
        await transaction.rollback()

        assert await cancelling == [200, 200]
    finally:
        await other.close()
