"""What the server does by predictions can be turned off, each by itself."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.timeouts import CALLS, DEFAULT_SECONDS
from task_server.store.attempts import Dealt, Used
from task_server.store.kinds import AUTO
from task_server.store.transitions import Policy
from tests.store.world import World, ids, spec, succeeded


async def measured(world: World, seconds: float) -> None:
    """Let the function be called."""
    worker = await world.worker()
    await world.submit(count=CALLS)
    while dealt := await worker.take(CALLS):
        used = Used(run_seconds=seconds)
        await worker.report(*[succeeded(each, used=used) for each in dealt])


def owners(dealt: Sequence[Dealt]) -> list[int]:
    return [each.kind.spec.owner for each in dealt]


async def test_short_tasks_go_many_at_once_or_one_for_each_slot(world: World) -> None:
    await measured(world, 0.000_1)
    await world.submit(count=40)

    many = await (await world.worker(slots=2)).take(20)
    world.store.policy = Policy(deals_ahead=False)
    one = await (await world.worker(slots=2)).take(20)

    assert (len(many), len(one)) == (20, 2)


async def test_without_fair_share_the_first_to_come_is_the_first_to_go(world: World) -> None:
    world.store.policy = Policy(shares_fairly=False)
    first = await world.submit(count=3, kind=spec(owner=1))
    world.clock.advance(1.0)
    second = await world.submit(count=3, kind=spec(owner=2))
    worker = await world.worker(slots=4)

    assert ids(await worker.take(4)) == [*first.ids, second.ids[0]]


async def test_priorities_of_all_owners_are_one_order_without_fair_share(world: World) -> None:
    world.store.policy = Policy(shares_fairly=False)
    await world.submit(count=2, kind=spec(owner=1))
    await world.submit(count=2, kind=spec(owner=2, priority=1))
    worker = await world.worker(slots=3)

    assert owners(await worker.take(3)) == [2, 2, 1]


async def test_owners_get_work_by_the_weights_of_their_names(world: World) -> None:
    heavy = await world.store.owner_named("heavy")
    light = await world.store.owner_named("light")
    world.store.policy = Policy(share_weights=(("heavy", 2.0),))
    for owner in (light, heavy):
        await world.submit(count=30, kind=spec(owner=owner))
    worker = await world.worker(slots=30)

    dealt = owners(await worker.take(30))

    assert (dealt.count(heavy), dealt.count(light)) == (20, 10)


async def test_an_automatic_timeout_is_the_default_where_predictions_are_not_used(
    world: World,
) -> None:
    await measured(world, 100.0)
    world.store.policy = Policy(limits_by_prediction=False)
    await world.submit(kind=spec(timeout=AUTO))
    worker = await world.worker()

    limit = (await worker.take_one()).limit

    assert limit is not None and limit.seconds == DEFAULT_SECONDS
    assert "--auto-timeout" in limit.why
