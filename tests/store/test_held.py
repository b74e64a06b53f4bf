"""What a worker says it holds, and what it is told of it."""

import pytest

from task_server.protocol.workers import Held
from tests.store.world import (
    World,
    held,
    lease_of,
    succeeded,
)


async def test_a_seen_task_that_is_not_held_goes_back_unstarted(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    for _ in range(5):
        await worker.take_one()
        await worker.exchange(held=[])
        assert await world.state(accepted.ids[0]) == "queued"


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_one_that_was_told_as_running_crashed(world: World, is_restarted: bool) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.exchange(held=[held(dealt, "running")])
    if is_restarted:
        await world.kill()

    await worker.exchange(held=[])

    assert await world.state(accepted.ids[0]) == "delayed"


async def test_one_that_was_being_installed_had_not_started(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.exchange(held=[held(dealt, "installing")])

    await worker.exchange(held=[])

    assert await world.state(accepted.ids[0]) == "queued"


async def test_nothing_is_concluded_of_an_unseen_lease(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    await worker.take(is_lost=True)

    result = await worker.exchange(held=[])

    assert len(result.tasks) == 1
    assert await world.state(accepted.ids[0]) == "running"


async def test_nothing_is_concluded_without_a_list(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    await worker.take_one()

    await worker.exchange()

    assert await world.state(accepted.ids[0]) == "running"


async def test_what_is_held_in_vain_is_told(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    lost, cancelled = await worker.take(2)
    await world.advance(61)
    await world.store.cancel(1, [cancelled.id])
    nonsense = [Held("x"), Held("ffff.1." + "0" * 32)]

    result = await worker.exchange(held=[held(lost), held(cancelled), *nonsense])

    assert dict(result.stop) == {
        lease_of(lost).text: "gone",
        lease_of(cancelled).text: "cancelled",
        "x": "gone",
        "ffff.1." + "0" * 32: "gone",
    }


async def test_a_reported_lease_counts_as_held(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    result = await worker.exchange(succeeded(dealt), held=[held(dealt)])

    assert result.stop == []


async def test_nothing_is_told_twice(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.cancel(1, accepted.ids)

    result = await worker.exchange(held=[held(dealt)])

    assert result.stop == [(lease_of(dealt).text, "cancelled")]
