"""Kinds and what they name go when no task needs them, and no server is misled by its memory."""

from __future__ import annotations

from task_server.store.postgres.upkeep import REST_SECONDS
from tests.store.postgres.pair import Pair, heard_of, until
from tests.store.postgres.world import PostgresWorld
from tests.store.retained import KEEP, count, purge, succeed
from tests.store.world import World, ids, new_task, spec

OLD = 100.0


async def forget(world: World) -> None:
    while await world.store.forget_unused(keep_seconds=OLD):
        pass


async def use_once(world: PostgresWorld, **options: object) -> None:
    """A task that comes, succeeds and is purged."""
    await succeed(world, new_task(), kind=spec(**options))
    world.clock.advance(KEEP.unread)
    await purge(world)


async def tables(world: World) -> list[int]:
    names = ("kinds", "lanes", "environment_requests", "functions")
    return [await count(world, name) for name in names]


async def test_what_no_task_needs_goes_after_a_rest(pair: Pair) -> None:
    world = pair.one
    await use_once(world)
    await forget(world)
    assert await tables(world) == [1, 1, 1, 1]
    world.clock.advance(REST_SECONDS)

    await forget(world)

    assert await tables(world) == [0, 0, 0, 1]
    assert world.store.statistics((0, "", "math:sqrt")) is not None
    world.clock.advance(OLD)
    await forget(world)
    assert await tables(world) == [0, 0, 0, 0]
    assert world.store.statistics((0, "", "math:sqrt")) is None


async def test_what_a_task_needs_stays(pair: Pair) -> None:
    await pair.two.submit()
    for _ in range(3):
        await forget(pair.one)
        pair.one.clock.advance(REST_SECONDS)

    assert await tables(pair.one) == [1, 1, 1, 1]


async def test_what_is_used_again_stays(pair: Pair) -> None:
    world = pair.one
    await use_once(world)
    await forget(world)
    accepted = await pair.two.submit()
    world.clock.advance(REST_SECONDS)

    await forget(world)

    assert await tables(world) == [1, 1, 1, 1]
    assert ids(await heard_of(await world.worker(), 5)) == accepted.ids


async def test_a_marked_kind_is_forgotten_by_the_other_server(pair: Pair) -> None:
    await use_once(pair.two)
    assert pair.two.store.memory.kinds

    await forget(pair.one)

    await until(lambda: bool(pair.two.store.memory.unused))
    pair.two.store.memory.bound()
    assert not pair.two.store.memory.kinds


async def test_what_has_gone_is_made_anew_by_a_server_that_remembers_it(pair: Pair) -> None:
    await use_once(pair.two)
    for _ in range(2):
        await forget(pair.one)
        await until(lambda: bool(pair.two.store.memory.unused))
        pair.one.clock.advance(REST_SECONDS + OLD)
    await forget(pair.one)
    assert await tables(pair.one) == [0, 0, 0, 0]

    accepted = await pair.two.submit(kind=spec(tags=("new",)))
    again = await pair.two.submit()

    assert await tables(pair.two) == [2, 1, 1, 1]
    worker = await pair.two.worker()
    assert ids(await worker.take(5)) == accepted.ids + again.ids
