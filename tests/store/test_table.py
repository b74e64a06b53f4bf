"""Rows of delivery's table that stand nowhere else: caps, late answers, waits, places in order."""

import pytest

from task_server.store import transitions
from task_server.store.states import State
from task_server.store.transitions import Policy, Row
from tests.store.world import LEASE_SECONDS, World, failed, ids, new_task, spec, succeeded


@pytest.mark.parametrize("is_killed", [False, True])
async def test_a_task_that_never_arrives_is_given_up_after_twenty_times(
    world: World, is_killed: bool
) -> None:
    (task,) = (await world.submit()).ids
    for times in range(1, 21):
        assert await world.state(task) == "queued", times
        worker = await world.worker()
        await worker.take(1, is_lost=True)
        if is_killed and times == 10:
            await world.kill()
        await world.advance(LEASE_SECONDS + 1)  # the session ends before its reply was seen
        await world.advance(LEASE_SECONDS)

    assert await world.state(task) == "failed"
    assert await world.error_kind(task) == "lost"
    assert (await world.task(task)).attempt == 20


async def test_lost_replies_are_no_crashes(world: World) -> None:
    (task,) = (await world.submit()).ids
    for _ in range(5):
        worker = await world.worker()
        await worker.take(1, is_lost=True)
        await world.advance(LEASE_SECONDS + 1)
        await world.advance(LEASE_SECONDS)

    assert await world.state(task) == "queued", "three crashes would have ended it"


async def test_late_successes_can_be_refused(world: World) -> None:
    world.store.policy = Policy(late_success=False)
    (task,) = (await world.submit()).ids
    late = await world.worker()
    first = await late.take_one()
    await world.advance(LEASE_SECONDS + 1)
    await late.join()
    assert await late.report(succeeded(first)) == [409]
    await world.advance(LEASE_SECONDS)
    worker = await world.worker()
    second = await worker.take_one()

    assert await late.report(succeeded(first, b"1")) == [409]
    assert await worker.report(succeeded(second, b"2")) == [200]

    assert (await world.task(task)).outcome == b"2"


async def test_what_becomes_due_stands_behind_what_came_before_that(world: World) -> None:
    delayed = new_task(run_after=world.clock.now + 50)
    await world.submit(delayed)
    world.clock.advance(40)
    earlier = (await world.submit(count=3)).ids
    await world.advance(20)
    later = (await world.submit()).ids
    worker = await world.worker()

    assert ids(await worker.take(10)) == [*earlier, delayed.id, *later]


async def test_what_failed_stands_behind_what_came_while_it_waited(world: World) -> None:
    (task,) = (await world.submit(kind=spec(max_attempts=2, backoff=20.0))).ids
    worker = await world.worker()
    await worker.report(failed(await worker.take_one()))
    world.clock.advance(1)
    came = (await world.submit()).ids
    await world.advance(30)

    assert ids(await worker.take(10)) == [*came, task]


def row(**options: int) -> Row:
    fields = {"errors": 0, "crashes": 0, "undelivered": 0, "releases": 0, "unstarted": 0}
    return Row(
        number=1,
        state=State.RUNNING,
        generation=0,
        attempt=1,
        max_attempts=9,
        at_most_once=False,
        retry_on=frozenset(),
        backoff=10.0,
        **{**fields, **options},
    )


@pytest.mark.parametrize(
    "errors,jitter,expected",
    [
        (0, 0.0, 1.0),
        (0, 0.05, 1.0),
        (0, 0.5, 5.0),
        (0, 0.999, 9.99),
        (3, 0.0, 1.0),
        (3, 0.5, 40.0),
        (5, 0.5, 160.0),
        (20, 0.5, 3600.0),
    ],
)
def test_a_retry_waits_anything_from_nothing_to_twice_the_last(
    errors: int, jitter: float, expected: float
) -> None:
    assert transitions.retry_wait(row(errors=errors), jitter) == pytest.approx(expected)


@pytest.mark.parametrize(
    "crashes,jitter,expected",
    [(1, 0.0, 1.0), (1, 0.999, 1.999), (2, 0.5, 3.0), (5, 0.0, 16.0), (9, 0.999, 59.97)],
)
def test_a_crash_waits_half_to_all_of_its_time(
    crashes: int, jitter: float, expected: float
) -> None:
    assert transitions.crash_wait(crashes, jitter) == pytest.approx(expected)


async def test_each_wait_is_drawn_anew(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([0.9, 0.1] * 50)
    monkeypatch.setattr(world.store, "_jitter", lambda: next(draws))
    await world.submit(count=2, kind=spec(max_attempts=3, backoff=100.0))
    worker = await world.worker()
    first, second = await worker.take(2)
    await worker.report(failed(first), failed(second))
    await world.advance(11)

    states = {await world.state(each.id) for each in (first, second)}

    assert states == {"queued", "delayed"}, "after 10 s the one, after 90 s the other"
