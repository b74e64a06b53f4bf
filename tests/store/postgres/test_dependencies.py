"""`after` on several servers: more who wait than one group lets go, and races with the end."""

from __future__ import annotations

import pytest

from task_server.store.postgres.groups import Groups
from task_server.store.submissions import NewTask
from tests.store.postgres.pair import Pair, outcomes, until
from tests.store.postgres.world import PostgresWorld
from tests.store.retained import count
from tests.store.world import failed, ids, new_task, spec, succeeded

WAITING = 10


def after(*tasks: NewTask) -> NewTask:
    return new_task(after=tuple(task.id for task in tasks))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few waits end in one group."""
    monkeypatch.setattr("task_server.store.postgres.dependencies.LIMIT", 3)


async def ended(world: PostgresWorld, *, is_success: bool) -> list[bytes]:
    """A task ends that many wait for; those."""
    first = new_task()
    waiting = [after(first) for _ in range(WAITING)]
    await world.submit(first, *waiting)
    worker = await world.worker()
    dealt = await worker.take_one()
    assert await worker.report(succeeded(dealt) if is_success else failed(dealt)) == [200]
    return [task.id for task in waiting]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("is_success", [True, False])
async def test_more_than_one_group_lets_go_follow_at_once(pair: Pair, is_success: bool) -> None:
    waiting = await ended(pair.one, is_success=is_success)

    await pair.one.store.write(_nothing)  # behind whatever was put before
    for _ in range(WAITING):
        await pair.one.store.write(_nothing)

    states = [await pair.one.state(each) for each in waiting]
    assert states == ["queued" if is_success else "cancelled"] * WAITING
    assert await count(pair.one, "unfollowed") == await count(pair.one, "dependencies") == 0


@pytest.mark.usefixtures("few")
async def test_the_leader_goes_on_with_what_another_left(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = pair.two if await pair.one.store.leads() else pair.one
    leader = pair.one if follower is pair.two else pair.two
    tell = Groups._publish

    def die(groups: Groups, done: object, group: object) -> None:
        tell(groups, done, group)  # type: ignore[arg-type]  # passed on
        if group is not None and groups is follower.store:
            group.leaves_waits = False  # type: ignore[attr-defined]  # as if it ended here

    monkeypatch.setattr(Groups, "_publish", die)
    waiting = await ended(follower, is_success=True)
    assert await count(leader, "unfollowed") == 1

    await leader.store.expire()

    assert [await leader.state(each) for each in waiting] == ["queued"] * WAITING
    assert await count(leader, "unfollowed") == 0


async def test_a_wait_that_begins_as_the_other_ends_is_not_forgotten(pair: Pair) -> None:
    worker = await pair.two.worker()
    for _ in range(15):
        first = new_task()
        await pair.two.submit(first)
        (dealt,) = await worker.take(1)
        then = after(first)

        statuses, accepted = await outcomes(worker.report(succeeded(dealt)), pair.one.submit(then))

        assert (statuses, accepted.ids) == ([200], [then.id])
        assert await pair.one.state(then.id) == "queued"
        await pair.one.store.cancel(1, [then.id])


async def test_what_waits_for_two_that_end_at_both_at_once_is_let_go(pair: Pair) -> None:
    workers = [await pair.one.worker(), await pair.two.worker()]
    for _ in range(15):
        both = [new_task(), new_task()]
        then = after(*both)
        await pair.one.submit(*both, then)
        pair.hear_all()
        dealt = [await worker.take_one() for worker in workers]
        assert sorted(ids(dealt)) == sorted(task.id for task in both)

        await outcomes(
            *[worker.report(succeeded(each)) for worker, each in zip(workers, dealt, strict=True)]
        )

        assert await pair.two.state(then.id) == "queued"
        await pair.one.store.cancel(1, [then.id])


async def test_a_submit_as_the_lock_fails_is_not_left_behind(pair: Pair) -> None:
    for number in range(10):
        kind = spec(request=f"r{number}", environment=None)
        await pair.one.submit(kind=kind)
        await until(lambda text=f"r{number}": pair.two.store.knows_request(text))  # type: ignore[misc]

        accepted, _ = await outcomes(
            pair.two.submit(kind=kind), pair.one.store.lock_failed(f"r{number}", "no such package")
        )

        state = await pair.one.state(accepted.ids[0])
        open_requests = await pair.one.store.open_requests(pair.one.clock.now)
        is_open = any(text == f"r{number}" for text, *_ in open_requests)
        assert (state, is_open) in (("failed", False), ("queued", True))


async def _nothing(rows: object) -> None: ...
