"""What no task needs any more leaves the tables and the memory; the file gives room back."""

from typing import Any

import pytest

from tests.store.retained import DAY, KEEP, count, purge, succeed
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import Worker, new_task, spec, succeeded

STATISTICS_SECONDS = 5 * DAY


async def forget(world: SqliteWorld) -> None:
    for _ in range(100):
        if not await world.store.forget_unused(keep_seconds=STATISTICS_SECONDS):
            return
    raise AssertionError("there is always more to forget")


def sizes(world: SqliteWorld) -> dict[str, int]:
    """How much the store has in memory, by what it is."""
    return {
        name: len(value)
        for name, value in vars(world.store.memory).items()
        if isinstance(value, dict | set | list)
    }


def odd(n: int) -> dict[str, Any]:
    """A function of a package, a priority and tags that only it has."""
    return {
        "function": f"f{n}",
        "tags": (f"t{n}",),
        "priority": n % 21 - 10,
        "request": f"python 3.11 package{n}",
        "environment": f"{n:064x}",
    }


async def test_memory_is_as_before_after_very_many_functions_and_workers(
    world: SqliteWorld,
) -> None:
    worker = await world.worker(slots=1000)
    await world.submit()
    await worker.report(*map(succeeded, await worker.take(1)))
    before = sizes(world)
    for n in range(1000):
        await world.submit(kind=spec(**odd(n)))
    for n in range(20):
        dealt = await worker.take(50)
        await worker.report(*map(succeeded, dealt))
        assert len(dealt) == 50, n
    for _ in range(500):
        await (await world.worker()).exchange()
    agent = await world.worker()
    for _ in range(500):
        await agent.join()
    await agent.exchange()
    grown = sizes(world)
    assert grown["functions"] == before["functions"] + 1000
    assert grown["sessions"] > 500
    world.clock.advance(KEEP.unread)

    assert await purge(world) == 1001
    await forget(world)
    world.clock.advance(STATISTICS_SECONDS)
    await forget(world)
    await world.store.expire()
    while await world.store.remove_leftovers(KEEP, now=world.clock.now):
        pass

    after = sizes(world)
    assert {name: size for name, size in after.items() if size > before[name]} == {}
    tables = ("kinds", "lanes", "environment_requests", "functions", "function_statistics")
    for table in (*tables, "kind_load", "sessions", "workers"):
        assert await count(world, table) == 0, table


async def test_what_is_needed_still_is_not_forgotten(world: SqliteWorld) -> None:
    await world.submit(kind=spec(**odd(1)))
    await world.submit(new_task(run_after=world.clock.now + 99 * DAY), kind=spec(**odd(2)))
    await world.submit(kind=spec(**odd(3)))
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(1)))
    kept = {"kinds": 3, "lanes": 3, "environment_requests": 3, "functions": 3}
    world.clock.advance(9 * DAY)

    await forget(world)

    assert {table: await count(world, table) for table in kept} == kept


async def test_statistics_outlive_the_tasks_for_a_while(world: SqliteWorld) -> None:
    key = (0, "", "math:sqrt")
    await succeed(world, new_task())
    world.clock.advance(KEEP.unread)
    await purge(world)
    await forget(world)
    assert await count(world, "kinds") == 0
    known = world.store.statistics(key)
    assert known is not None and known.calls == 1
    world.clock.advance(STATISTICS_SECONDS - 1)
    await forget(world)
    await world.restart()
    assert world.store.statistics(key) is not None

    world.clock.advance(1)
    await forget(world)

    assert world.store.statistics(key) is None


async def test_a_function_that_is_called_again_is_kept(world: SqliteWorld) -> None:
    await succeed(world, new_task())
    world.clock.advance(KEEP.unread)
    await purge(world)
    await forget(world)

    await succeed(world, new_task())
    world.clock.advance(2 * STATISTICS_SECONDS)
    await purge(world)
    await forget(world)

    known = world.store.statistics((0, "", "math:sqrt"))
    assert known is not None and known.calls == 2


@pytest.mark.parametrize("is_killed", [False, True])
async def test_what_was_forgotten_is_made_anew(world: SqliteWorld, is_killed: bool) -> None:
    await succeed(world, new_task(), kind=spec(**odd(1)))
    world.clock.advance(KEEP.unread)
    await purge(world)
    await forget(world)
    world.clock.advance(STATISTICS_SECONDS)
    await forget(world)
    if is_killed:
        await world.kill()

    await succeed(world, new_task(), kind=spec(**odd(1)))

    assert [await count(world, table) for table in ("kinds", "lanes", "functions")] == [1, 1, 1]


async def test_a_submit_in_the_same_group_keeps_what_it_needs(world: SqliteWorld) -> None:
    await succeed(world, new_task())
    world.clock.advance(KEEP.unread)
    await purge(world)

    first, removed, second = await world.together(
        world.submit(),
        world.store.forget_unused(keep_seconds=0.0),
        world.submit(kind=spec(priority=3)),
    )

    assert not isinstance(first, Exception) and not isinstance(second, Exception)
    worker: Worker = await world.worker()
    assert len(await worker.take(5)) == 2
    assert isinstance(removed, int)


async def test_a_submit_after_it_in_one_group_makes_its_kind_anew(world: SqliteWorld) -> None:
    await succeed(world, new_task())
    world.clock.advance(KEEP.unread)
    await purge(world)
    store = world.store
    unused = await store.read(lambda rows: find(rows))

    _, accepted = await world.together(
        store._do(lambda group: forget_now(group, unused)), world.submit()
    )

    assert await world.state(accepted.ids[0]) == "queued"


async def test_a_submit_before_it_in_one_group_keeps_its_kind(world: SqliteWorld) -> None:
    await succeed(world, new_task())
    world.clock.advance(KEEP.unread)
    await purge(world)
    store = world.store
    unused = await store.read(lambda rows: find(rows))

    accepted, _ = await world.together(
        world.submit(), store._do(lambda group: forget_now(group, unused))
    )

    assert await world.state(accepted.ids[0]) == "queued"


async def find(rows: Any) -> Any:
    from task_server.store.sqlite.forget import find_unused

    return await find_unused(rows, before=0.0)


def forget_now(group: Any, unused: Any) -> int:
    from task_server.store.sqlite.forget import forget

    return forget(group, unused)


async def test_room_that_purged_tasks_left_goes_back_to_the_disk(
    world: SqliteWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.sqlite.upkeep.FREE_PAGES", 50)
    large = b'"args":["%s"],"kwargs":{}' % (b"x" * 60_000)
    await succeed(world, *[new_task(payload=large) for _ in range(100)])
    full = await world.store.stored_bytes()
    world.clock.advance(KEEP.unread)
    await purge(world)

    emptied = await world.store.stored_bytes()
    steps = 0
    while await world.store.give_back_space():
        steps += 1

    assert full - emptied > 5_000_000
    assert 1 < steps < 10
    free, pages = await world.store.read(_pages)
    assert 0 < free <= 50 + 0.1 * pages
    assert await world.store.stored_bytes() <= emptied + 100_000


async def _pages(rows: Any) -> tuple[int, int]:
    ((free,),) = await rows.fetch("PRAGMA freelist_count")
    ((pages,),) = await rows.fetch("PRAGMA page_count")
    return free, pages


async def test_a_little_room_is_kept_for_what_comes(world: SqliteWorld) -> None:
    await succeed(world, new_task(payload=b'"args":["%s"],"kwargs":{}' % (b"x" * 60_000)))
    world.clock.advance(KEEP.unread)
    await purge(world)

    assert not await world.store.give_back_space()


async def test_stored_bytes_count_blobs_once(world: SqliteWorld) -> None:
    before = await world.store.stored_bytes()
    for owner in (0, 1, 2):
        await world.store.keep_blob(
            "sha256:" + "a" * 64, owner, size=10_000_000, now=world.clock.now
        )

    grown = await world.store.stored_bytes() - before

    assert 10_000_000 <= grown < 10_100_000
