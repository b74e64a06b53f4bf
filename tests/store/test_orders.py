"""Orders: environments that workers are to have ready, asked for and told of."""

from __future__ import annotations

import asyncio
from typing import Any

from task_server.store.records.orders import OrderReport, OrderRow, OrderSpec
from task_server.store.records.retention import Keep
from tests.store.world import START, World, spec

TEXT = "python 3.11\ngreet"
DIGEST = "a" * 64
KEEP = Keep(1.0, 1.0, 1.0)


def wanted(**fields: Any) -> OrderSpec:
    return OrderSpec(**{"request": TEXT, "until": START + 100, **fields})


async def ordered(world: World, **fields: Any) -> OrderRow:
    """An order whose request waits for its lock, or had one before."""
    await world.store.order(wanted(**fields), now=START)
    await world.store.ask_for_lock(TEXT, python="3.11", environment=None)
    return (await world.store.orders(START))[-1]


async def lock(world: World) -> None:
    await world.store.locked(TEXT, environment=DIGEST, python="3.11", lock="# python 3.11\n")


async def test_an_order_has_its_request_locked(world: World) -> None:
    row = await ordered(world, labels={"rack": "b", "gpu": "yes"}, modules=("greet",))
    assert (row.environment, row.error, row.python, row.round) == (None, None, "3.11", 1)
    assert row.labels == {"gpu": "yes", "rack": "b"} and row.modules == ("greet",)
    assert [text for text, _, _ in await world.store.open_requests(START)] == [TEXT]
    assert world.new_requests

    await lock(world)

    [row] = await world.store.orders(START)
    assert row.environment == DIGEST
    [known] = [each for each in await world.store.environments(10) if each.digest == DIGEST]
    assert known.requests == [TEXT]


async def test_a_task_gets_the_lock_that_was_made_ahead(world: World) -> None:
    await ordered(world)
    await lock(world)

    await world.submit(kind=spec(request=TEXT, environment=None))

    assert world.store.environment_of(TEXT) == DIGEST
    assert await world.store.open_requests(START) == []


async def test_a_lock_that_failed_is_told_and_tried_again_when_it_is_ordered_again(
    world: World,
) -> None:
    await ordered(world)
    await world.store.lock_failed(TEXT, "no such package")
    [row] = await world.store.orders(START)
    assert row.error == "no such package"

    row = await ordered(world)

    assert (row.error, row.round) == (None, 2)
    assert len(await world.store.open_requests(START)) == 1


async def test_ordering_again_is_another_round_of_the_same_order(world: World) -> None:
    first = await ordered(world)
    again = await ordered(world, modules=("greet.more",), until=START + 500)
    other = await ordered(world, labels={"rack": "b"})

    assert (again.number, again.round, again.modules) == (first.number, 2, ("greet.more",))
    assert again.until == START + 500
    assert other.number != first.number


async def test_what_workers_tell_is_kept_of_the_present_round_alone(world: World) -> None:
    row = await ordered(world)
    store = world.store
    joined = await world.worker()
    assert joined.id is not None
    reports = [
        OrderReport(row.number, 1, "building", ""),
        OrderReport(row.number, 1, "failed", "uv said no"),
        OrderReport(row.number, 9, "ready", ""),
        OrderReport(row.number + 5, 1, "ready", ""),
    ]

    await store.note_orders(joined.id, reports, now=START)

    assert await store.order_reports([row.number]) == [(joined.id, reports[1])]


async def test_an_order_ends_in_its_time_or_when_it_is_taken_back(world: World) -> None:
    row = await ordered(world)
    assert await world.store.orders(row.until) == []
    await lock(world)

    assert await world.store.take_back([DIGEST]) == 1

    assert await world.store.orders(START) == []


async def test_an_order_is_for_the_lock_that_was_refreshed(world: World) -> None:
    await ordered(world)
    await world.store.lock_failed(TEXT, "no such package")
    new = "b" * 64

    await world.store.refresh(
        TEXT, environment=new, python="3.11", lock="# python 3.11\n", now=START
    )

    [row] = await world.store.orders(START)
    assert (row.environment, row.error) == (new, None)
    assert await world.store.take_back([DIGEST]) == 0
    assert await world.store.take_back([new]) == 1
    assert await world.store.orders(START) == []


async def test_a_request_stays_as_long_as_it_is_ordered(world: World) -> None:
    row = await ordered(world)
    await lock(world)
    await world.store.note_orders("w", [OrderReport(row.number, 1, "ready", "")], now=START)

    while await world.store.forget_unused(keep_seconds=0.0):
        pass
    assert world.store.knows_request(TEXT)

    await world.store.remove_leftovers(KEEP, now=row.until)
    while await world.store.forget_unused(keep_seconds=0.0):
        pass
    assert not world.store.knows_request(TEXT)
    assert await world.store.order_reports([row.number]) == []


async def test_parked_workers_are_answered_one_by_one(world: World) -> None:
    one, other = await world.worker(), await world.worker()
    first = asyncio.ensure_future(one.exchange(want=1, wait=20.0))
    second = asyncio.ensure_future(other.exchange(want=1, wait=20.0))
    sessions = {each.id: each.worker for each in await world.store.sessions()}

    while not first.done():  # it may not be parked yet
        world.store.release_parked([sessions[str(one.id)]])
        await asyncio.sleep(0.01)

    assert first.result().tasks == []
    assert not second.done()
    world.store.release_parked()
    await second


async def test_a_lock_that_waits_for_the_index_is_tried_again_while_it_is_ordered(
    world: World,
) -> None:
    row = await ordered(world)

    await world.store.lock_later(TEXT, at=START + 5, reason="index away", counts=True)

    assert await world.store.open_requests(START) == []
    assert [text for text, _, _ in await world.store.open_requests(START + 5)] == [TEXT]
    [row] = await world.store.orders(START)
    assert (row.environment, row.error) == (None, None)
