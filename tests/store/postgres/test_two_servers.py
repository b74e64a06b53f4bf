"""Two servers on one database: what one does, the other's users and workers see."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from task_server.errors import Conflict, SessionOver
from task_server.scheduling.requires import Requires
from task_server.store.attempts import AttemptReport, Used
from task_server.store.sessions import UNSTARTED
from task_server.store.submissions import Accepted, IdempotencyKey
from tests.store.postgres.pair import Pair, moved, outcomes, until
from tests.store.postgres.world import PostgresWorld
from tests.store.world import (
    Worker,
    batch,
    crashed,
    failed,
    ids,
    lease_of,
    new_task,
    released,
    spec,
    succeeded,
)


async def parked(worker: Worker, want: int = 5) -> asyncio.Task[Any]:
    """A worker's exchange that waits at its server by now."""
    store = worker.world.store
    before = len(store.memory.parked)  # type: ignore[attr-defined]  # of this store
    waiting = asyncio.create_task(worker.exchange(want=want, wait=30))
    await until(lambda: len(store.memory.parked) > before)  # type: ignore[attr-defined]  # the same
    return waiting


# ---- tasks go round


async def test_a_task_of_one_server_goes_to_a_worker_parked_at_the_other(told: Pair) -> None:
    worker = await told.two.worker()
    waiting = await parked(worker)

    accepted = await told.one.submit(count=3)

    assert ids((await waiting).tasks) == accepted.ids


async def test_who_waits_at_one_server_hears_of_an_end_at_the_other(told: Pair) -> None:
    accepted = await told.one.submit()
    told.one.store.watched = lambda: (set(accepted.ids), ())
    worker = await told.two.worker()
    dealt = await worker.take_one()

    await worker.report(succeeded(dealt, b"[7]"))
    await until(lambda: bool(told.one.ended))

    (ended,) = told.one.ended
    assert (ended.id, ended.outcome, ended.server) == (dealt.id, b"[7]", told.two.store.server)


async def test_who_waits_for_a_batch_hears_of_each_end_once(told: Pair) -> None:
    made = batch()
    await told.one.submit(count=40, batch=made)
    number = (await told.one.batch(made.id)).batch
    told.one.store.watched = lambda: ((), {number})
    workers = [await told.one.worker(), await told.two.worker()]
    for _ in range(10):
        for worker in workers:
            await worker.report(*map(succeeded, await worker.take(2)))

    await until(lambda: len(told.one.ended) >= 40)

    await asyncio.sleep(0.05)
    assert Counter(each.position for each in told.one.ended) == dict.fromkeys(range(40), 1)


async def test_it_is_heard_of_though_the_news_is_lost(pair: Pair) -> None:
    accepted = await pair.one.submit(count=2)
    pair.one.store.watched = lambda: (set(accepted.ids), ())
    pair.two.store._news.tell = lambda **_: None  # type: ignore[method-assign]  # lost on the way
    worker = await pair.two.worker()

    await worker.report(*map(succeeded, await worker.take(2)))

    await until(lambda: len(pair.one.ended) == 2)


async def test_work_is_found_though_the_news_is_lost(pair: Pair) -> None:
    pair.one.store._news.tell = lambda **_: None  # type: ignore[method-assign]  # lost on the way
    worker = await pair.two.worker()
    waiting = await parked(worker)

    accepted = await pair.one.submit()

    async with asyncio.timeout(10):
        assert ids((await waiting).tasks) == accepted.ids


async def test_what_is_given_back_at_one_server_is_found_by_the_other(told: Pair) -> None:
    accepted = await told.one.submit(count=2)
    first, second = await told.one.worker(), await told.two.worker()
    dealt = await first.take_one()
    await second.take_one()
    waiting = await parked(second)

    await first.report(released(dealt))

    assert ids((await waiting).tasks) == accepted.ids[:1]


async def test_a_lock_found_at_one_server_lets_the_other_lease(told: Pair) -> None:
    kind = spec(request="numpy", environment=None)
    accepted = await told.one.submit(kind=kind)
    worker = await told.two.worker()
    waiting = await parked(worker)

    await told.one.store.locked("numpy", environment="f" * 64, python="3.11", lock="")

    assert ids((await waiting).tasks) == accepted.ids
    assert told.two.store.environment_of("numpy") == "f" * 64


async def test_what_a_report_frees_at_one_server_is_dealt_by_the_other(told: Pair) -> None:
    await told.one.submit(count=2, kind=spec(plain=False, requires=Requires(gpu=1).text))
    worker = await told.one.worker(gpu=1)
    first = await worker.take_one()
    worker.number += 1  # of the report that follows
    waiting = await parked(worker)

    await moved(worker, told.two).exchange(succeeded(first), number=worker.number - 1)

    assert len((await waiting).tasks) == 1


async def test_a_request_made_at_one_server_is_told_to_the_other(told: Pair) -> None:
    await told.one.submit(kind=spec(request="numpy", environment=None))

    await until(lambda: told.two.new_requests > 0)

    assert told.two.store.knows_request("numpy")


async def test_what_one_server_measured_the_other_knows(pair: Pair) -> None:
    await pair.one.submit(count=4)
    for world in (pair.one, pair.two):
        worker = await world.worker()
        await worker.report(*map(succeeded, await worker.take(2)))

    key = (0, "", "math:sqrt")

    def calls(world: Any) -> int:
        known = world.store.statistics(key)
        return 0 if known is None else int(known.calls)

    await until(lambda: calls(pair.one) == calls(pair.two) == 4)
    one, two = pair.one.store.statistics(key), pair.two.store.statistics(key)
    assert one is not None and two is not None and one.price() == two.price()


async def test_a_plain_worker_may_answer_at_another_server(pair: Pair) -> None:
    task = new_task()
    await pair.one.submit(task)
    dealt = await pair.one.plain_lease()
    assert dealt is not None

    assert (await pair.two.plain_answer(task.id, b"9")).status == 200
    assert (await pair.one.plain_answer(task.id, b"9")).duplicate


# ---- sessions move


async def test_a_session_goes_on_at_another_server(pair: Pair) -> None:
    accepted = await pair.one.submit(count=3)
    worker = await pair.one.worker()
    (dealt,) = await worker.take(1)

    result = await moved(worker, pair.two).exchange(succeeded(dealt), want=2)

    assert [each.status for each in result.decisions] == [200]
    assert ids(result.tasks) == accepted.ids[1:]
    assert await worker.report(*map(succeeded, result.tasks)) == [200, 200]


async def test_a_newer_exchange_elsewhere_ends_the_parked_one(told: Pair) -> None:
    worker = await told.one.worker()
    older = await parked(worker)

    newer = await parked(moved(worker, told.two))

    assert (await older).tasks == []
    accepted = await told.one.submit()
    assert ids((await newer).tasks) == accepted.ids


async def test_an_older_parked_exchange_gets_nothing_though_the_news_is_lost(pair: Pair) -> None:
    pair.two.store._news.tell = lambda **_: None  # type: ignore[method-assign]  # lost on the way
    worker = await pair.one.worker()
    older = await parked(worker)
    newer = await parked(moved(worker, pair.two))

    accepted = await pair.one.submit()

    async with asyncio.timeout(10):
        assert ids((await newer).tasks) == accepted.ids
        assert (await older).tasks == []
    assert (await pair.one.task(accepted.ids[0])).attempt == 1


async def test_a_join_elsewhere_ends_the_session_that_is_parked_here(told: Pair) -> None:
    worker = await told.one.worker()
    older, session, number = await parked(worker), worker.session, worker.number

    await moved(worker, told.two).join()

    assert (await older).tasks == []
    worker.session, worker.number = session, number
    with pytest.raises(SessionOver):
        await moved(worker, told.one).exchange(want=1)


async def test_unseen_tasks_come_again_from_another_server(pair: Pair) -> None:
    await pair.one.submit(count=2)
    worker = await pair.one.worker()
    lost = await worker.take(2, is_lost=True)

    again = await moved(worker, pair.two).take(2)

    assert [each.secret for each in again] == [each.secret for each in lost]


async def test_a_cancel_at_one_server_stops_the_worker_parked_at_the_other(told: Pair) -> None:
    accepted = await told.one.submit()
    worker = await told.two.worker()
    dealt = await worker.take_one()
    waiting = await parked(worker, want=0)

    assert await told.one.store.cancel(1, accepted.ids) == [200]

    assert (await waiting).stop == [(lease_of(dealt).text, "cancelled")]


async def test_a_worker_parked_at_the_other_server_is_asked_for_what_has_not_started(
    told: Pair,
) -> None:
    made = batch()
    await told.one.submit(batch=made)
    worker = await told.two.worker()
    dealt = await worker.take_one()
    waiting = await parked(worker, want=0)

    assert await told.one.store.cancel_batch(1, made.id, unstarted=True) == 0

    assert (await waiting).stop == [(lease_of(dealt).text, UNSTARTED)]


async def test_a_late_success_at_one_server_stops_the_worker_at_the_other(told: Pair) -> None:
    await told.one.submit()
    slow, fast = await told.one.worker(), await told.two.worker()
    old = await slow.take_one()
    for seconds in (61, 2):
        told.one.clock.advance(seconds)
        await told.one.store.expire()
        await told.two.store.expire()
    (running,) = await fast.take(1, wait=5)
    waiting = await parked(fast, want=0)

    assert await slow.report(succeeded(old, b"late")) == [200]

    assert (await waiting).stop == [(lease_of(running).text, "gone")]


# ---- races


async def test_one_id_submitted_at_both_at_once_is_one_task(pair: Pair) -> None:
    for _ in range(10):
        task = new_task()

        accepted = await outcomes(
            *[world.submit(task) for world in (pair.one, pair.two) for _ in range(3)]
        )

        assert sorted(each.duplicate for each in accepted) == [False] + [True] * 5
    assert await count_tasks(pair) == 10


async def test_of_two_bodies_for_one_id_at_both_one_is_kept(pair: Pair) -> None:
    for _ in range(10):
        task = new_task()
        other = new_task(task.id, digest=b"x" * 16)

        one, two = await outcomes(pair.one.submit(task), pair.two.submit(other))

        assert {type(one), type(two)} == {Accepted, Conflict}
    assert await count_tasks(pair) == 10


async def test_a_key_used_at_both_at_once_makes_one_task(pair: Pair) -> None:
    for number in range(10):
        key = IdempotencyKey(f"k{number}", b"1" * 16)

        one, two = await outcomes(
            *[world.submit(new_task(digest=None), key=key) for world in (pair.one, pair.two)]
        )

        assert one.ids == two.ids
        assert sorted((one.duplicate, two.duplicate)) == [False, True]
    assert await count_tasks(pair) == 10


async def test_a_list_sent_to_both_at_once_makes_one_batch(pair: Pair) -> None:
    for _ in range(5):
        made = batch()

        one, two = await outcomes(
            *[
                world.submit(new_task(digest=None), new_task(digest=None), batch=made)
                for world in (pair.one, pair.two)
            ]
        )

        assert one.ids == two.ids
        assert (await pair.one.batch(made.id)).total == 2


async def test_members_added_at_both_at_once_get_places_of_their_own(pair: Pair) -> None:
    opened = batch(is_open=True)
    await pair.one.store.open_batch(1, opened)

    await outcomes(
        *[world.submit(count=7, into=opened.id) for world in (pair.one, pair.two) for _ in range(5)]
    )

    assert (await pair.two.batch(opened.id)).total == 70


async def test_a_cancel_and_an_answer_at_once_agree(pair: Pair) -> None:
    await pair.one.submit(count=60)
    worker = await pair.two.worker()
    dealt = await worker.take(60)

    reported, *cancelled = await outcomes(
        worker.report(*map(succeeded, dealt)),
        *[pair.one.store.cancel(1, [each.id]) for each in random.sample(dealt, len(dealt))],
    )

    by_id = dict(zip(ids(dealt), reported, strict=True))
    for each in dealt:
        state = await pair.one.state(each.id)
        assert (state, by_id[each.id]) in (("succeeded", 200), ("cancelled", 410))
    told = Counter(status for (status,) in cancelled)
    assert told[200] == Counter(reported)[410]


async def test_cancels_of_everything_at_both_end_everything_once(pair: Pair) -> None:
    made = batch()
    accepted = await pair.one.submit(count=200, batch=made)
    backwards = accepted.ids[::-1]

    counts = await outcomes(
        pair.one.store.cancel(1, accepted.ids),
        pair.two.store.cancel(1, backwards),
        pair.two.store.cancel_batch(1, made.id),
    )

    assert not any(isinstance(each, BaseException) for each in counts)
    assert (await pair.one.batch(made.id)).cancelled == 200
    assert len(pair.one.ended) + len(pair.two.ended) == 200


async def test_what_is_given_back_while_the_rest_of_its_batch_is_cancelled_ends_too(
    pair: Pair,
) -> None:
    for _ in range(5):
        made = batch()
        await pair.one.submit(count=60, batch=made)
        workers = [await world.worker() for world in (pair.one, pair.two)]
        dealt = [await worker.take(20) for worker in workers]

        counts = await outcomes(
            *[
                worker.report(*map(released, some[n : n + 5]))
                for worker, some in zip(workers, dealt, strict=True)
                for n in (0, 5)
            ],
            pair.two.store.cancel_batch(1, made.id, unstarted=True),
            *[
                worker.report(*map(released, some[n : n + 5]))
                for worker, some in zip(workers, dealt, strict=True)
                for n in (10, 15)
            ],
        )

        assert not any(isinstance(each, BaseException) for each in counts)
        assert (await pair.one.batch(made.id)).cancelled == 60


async def test_no_task_is_leased_twice(pair: Pair) -> None:
    accepted = await pair.one.submit(count=400)
    workers = [await world.worker(slots=20) for world in (pair.one, pair.two) for _ in range(3)]

    async def work(worker: Worker) -> list[bytes]:
        done: list[bytes] = []
        result = await worker.exchange(want=10)
        while result.tasks:
            done += ids(result.tasks)
            result = await worker.exchange(*map(succeeded, result.tasks), want=10)
            assert {each.status for each in result.decisions} == {200}
            if not result.tasks:
                result = await worker.exchange(want=10, wait=1.5)
        return done

    done = [each for mine in await outcomes(*map(work, workers)) for each in mine]

    assert Counter(done) == dict.fromkeys(accepted.ids, 1)


class Storm:
    """Users and workers, each call of theirs at one of the two servers."""

    def __init__(self, pair: Pair) -> None:
        self.worlds = (pair.one, pair.two)
        self.chance = random.Random(7)
        self.known: list[bytes] = []

    def some_world(self) -> PostgresWorld:
        return self.chance.choice(self.worlds)

    def some_ids(self) -> list[bytes]:
        return self.chance.sample(self.known, min(len(self.known), 5))

    async def user(self) -> None:
        kind = spec(max_attempts=2, backoff=0.1)
        for _ in range(25):
            count = self.chance.randrange(1, 20)
            self.known += (await self.some_world().submit(count=count, kind=kind)).ids
            if self.chance.random() < 0.5:
                await self.some_world().store.cancel(1, self.some_ids())
            if self.chance.random() < 0.3:
                await self.some_world().store.retry(1, self.some_ids())

    async def agent(self) -> None:
        worker = await self.some_world().worker(slots=30)
        reports: list[AttemptReport] = []
        for _ in range(60):
            moved(worker, self.some_world())
            is_lost = self.chance.random() < 0.1
            result = await worker.exchange(*reports, want=10, is_lost=is_lost)
            told = (succeeded, succeeded, succeeded, failed, crashed, released)
            reports = [self.chance.choice(told)(each) for each in result.tasks]
        await worker.exchange(*reports)

    async def upkeep(self) -> None:
        for _ in range(40):
            self.worlds[0].clock.advance(1)
            for world in self.worlds:
                await world.store.expire()
            await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_storm_of_everything_ends_everything_once(pair: Pair) -> None:
    storm = Storm(pair)
    users, agents = [storm.user() for _ in range(3)], [storm.agent() for _ in range(6)]

    found = await outcomes(*users, *agents, storm.upkeep())

    assert [each for each in found if each is not None] == []
    await drain(pair)
    ends = Counter(each.id for world in storm.worlds for each in world.ended)
    for task in storm.known:
        row = await pair.one.task(task)
        assert row.state.is_terminal and 1 <= ends[task] <= row.generation + 1


async def drain(pair: Pair) -> None:
    """With an idle worker every task comes to its end."""
    worker = await pair.one.worker(slots=10_000)
    for _ in range(60):
        pair.one.clock.advance(61)
        for world in (pair.one, pair.two):
            await world.store.expire()
        pair.hear_all()
        dealt = await worker.take(10_000)
        await worker.report(*map(succeeded, dealt))
        if not dealt and not await open_tasks(pair):
            return
    raise AssertionError("open tasks although a worker is idle")


async def open_tasks(pair: Pair) -> int:
    rows = await pair.one.store.read(
        lambda rows: rows.fetch("SELECT count(*) FROM tasks WHERE state < 3")
    )
    return int(rows[0][0])


async def count_tasks(pair: Pair) -> int:
    rows = await pair.one.store.read(lambda rows: rows.fetch("SELECT count(*) FROM tasks"))
    return int(rows[0][0])


# ---- upkeep


async def test_only_the_leader_sweeps(pair: Pair) -> None:
    assert sorted([await pair.one.store.leads(), await pair.two.store.leads()]) == [False, True]
    follower = pair.two if await pair.one.store.leads() else pair.one
    accepted = await pair.one.submit(new_task(run_after=pair.one.clock.now + 5))
    pair.one.clock.advance(10)

    await follower.store.expire()

    assert await pair.one.state(accepted.ids[0]) == "delayed"


async def test_an_owner_back_from_idle_is_lifted_once_by_both(pair: Pair) -> None:
    workers = [await world.worker(slots=1000) for world in (pair.one, pair.two)]
    await pair.one.submit(count=100)
    for worker in workers:
        done = await worker.take(20)
        await worker.report(*[succeeded(each, used=Used(run_seconds=1.0)) for each in done])
    await write(pair)
    await pair.one.submit(count=100, kind=spec(owner=2))
    pair.hear_all()
    for worker in workers:
        await worker.take(10)

    await write(pair)

    shares = pair.one.store.memory.shares.charged
    assert shares == pair.two.store.memory.shares.charged
    assert shares[1] + shares[2] == 100.0
    # What the one has leased since they last spoke, the other takes for a prediction.
    assert shares[1] == pytest.approx(50.0, abs=5.0)


async def write(pair: Pair) -> None:
    """Both tell their shares, then both have heard of the other's."""
    for _ in range(2):
        for world in (pair.one, pair.two):
            await world.store.expire()
