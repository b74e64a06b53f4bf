"""Waiting tasks get other predictions, and the places that go with these."""

from __future__ import annotations

from task_server.scheduling.lanes import WINDOW
from task_server.scheduling.statistics import Price
from task_server.store.contract_learning import NewPrice
from task_server.store.records.calls import WaitingCall
from tests.store.world import World, batch, ids, new_task

START = (float("-inf"), 0.0, 0)
LONG = Price(20.0, 20.0, 20.0, 20.0, 9, "history")


async def waiting(world: World) -> list[WaitingCall]:
    """The waiting tasks of the lane that all tests here use, in their order."""
    ((kind, _),) = await world.store.queued(None)
    return await world.store.waiting_in(kind.lane, START, 10_000)


def priced(found: WaitingCall, seconds: float, **fields: int) -> NewPrice:
    """A task as it was read, with another prediction."""
    call = found.call
    return NewPrice(call.number, fields.get("attempt", call.attempt), seconds, seconds * 2)


async def test_a_task_that_is_known_to_be_short_starts_first(world: World) -> None:
    accepted = await world.submit(count=3, price=LONG)
    worker = await world.worker()
    first, second, third = await waiting(world)

    changed = await world.store.reprice([priced(second, 0.5), priced(first, 50.0)])

    assert changed == 2
    dealt = (await worker.exchange(want=3)).tasks
    assert ids(dealt) == [accepted.ids[1], accepted.ids[2], accepted.ids[0]]
    row = await world.task(accepted.ids[1])
    assert (row.predicted, row.predicted_high) == (0.5, 1.0)
    assert third.call.predicted == 20.0


async def test_a_place_is_as_if_the_task_had_been_known_from_its_start(world: World) -> None:
    await world.submit(count=1, price=LONG)
    await world.advance(5.0)
    (found,) = await waiting(world)

    await world.store.reprice([priced(found, 1.0)])

    ((due_at, _, _),) = [each.key for each in await waiting(world)]
    assert due_at == world.clock.now - 5.0 + 10.0


async def test_within_a_batch_what_is_long_starts_first(world: World) -> None:
    accepted = await world.submit(count=3, price=LONG, batch=batch())
    worker = await world.worker()
    found = await waiting(world)
    due_at = found[0].key[0]

    await world.store.reprice([priced(found[2], 100.0)])

    assert {each.key[0] for each in await waiting(world)} == {due_at}
    assert ids((await worker.exchange(want=1)).tasks) == [accepted.ids[2]]


async def test_a_batch_in_submit_order_stays_in_it(world: World) -> None:
    accepted = await world.submit(count=3, price=LONG, batch=batch(in_order=True))
    worker = await world.worker()
    found = await waiting(world)

    await world.store.reprice([priced(found[2], 100.0), priced(found[1], 1.0)])

    assert ids((await worker.exchange(want=3)).tasks) == accepted.ids


async def test_a_task_that_was_leased_meanwhile_keeps_its_estimate(world: World) -> None:
    accepted = await world.submit(count=2, price=LONG)
    worker = await world.worker()
    found = await waiting(world)
    await worker.exchange(want=1)

    assert await world.store.reprice([priced(each, 1.0) for each in found]) == 1

    assert [(await world.task(each)).predicted for each in accepted.ids] == [20.0, 1.0]
    assert await world.state(accepted.ids[0]) == "running"


async def test_a_task_that_waits_again_is_priced_by_who_has_read_it_since(world: World) -> None:
    await world.submit(count=1, price=LONG)
    (found,) = await waiting(world)

    assert await world.store.reprice([priced(found, 1.0, attempt=1)]) == 0
    assert await world.store.reprice([priced(found, 1.0)]) == 1


async def test_a_task_beyond_the_window_can_become_the_first(world: World) -> None:
    accepted = await world.submit(count=WINDOW + 50, price=LONG)
    worker = await world.worker()
    found = await waiting(world)

    await world.store.reprice([priced(found[-1], 0.1)])

    assert ids((await worker.exchange(want=2)).tasks) == [accepted.ids[-1], accepted.ids[0]]


async def test_the_first_task_can_go_beyond_the_window(world: World) -> None:
    accepted = await world.submit(count=WINDOW + 50, price=LONG)
    worker = await world.worker(slots=2000)
    first, *_ = await waiting(world)

    await world.store.reprice([priced(first, 300.0)])

    dealt: list[bytes] = []
    while more := (await worker.exchange(want=500)).tasks:
        dealt += ids(more)
    assert dealt == [*accepted.ids[1:], accepted.ids[0]]


async def test_a_new_place_is_there_after_a_kill(world: World) -> None:
    accepted = await world.submit(count=2, price=LONG)
    _, second = await waiting(world)

    await world.store.reprice([priced(second, 0.5)])
    await world.kill()

    worker = await world.worker()
    assert ids((await worker.exchange(want=2)).tasks) == accepted.ids[::-1]


async def test_what_a_group_has_just_submitted_can_be_priced(world: World) -> None:
    worker = await world.worker()
    await world.submit(count=1, price=LONG)
    (found,) = await waiting(world)
    later = new_task()

    await world.together(
        world.submit(later, price=LONG), world.store.reprice([priced(found, 50.0)])
    )

    assert ids((await worker.exchange(want=2)).tasks)[0] == later.id
