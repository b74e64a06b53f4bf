"""T6 to T10 and the answer rules: what workers report."""

import asyncio
from typing import Any

import msgspec
import pytest

from task_server.scheduling.accuracy import lately, overall
from task_server.scheduling.pace import stretches
from task_server.scheduling.statistics import Price
from task_server.store.attempts import LeaseKey, Used
from task_server.store.kinds import AUTO
from task_server.store.states import Encoding
from tests.store.sqlite.world import SqliteWorld
from tests.store.world import (
    World,
    crashed,
    failed,
    lease_of,
    new_task,
    spec,
    succeeded,
)

RETRIES = spec(max_attempts=3, backoff=10.0)


async def test_a_success_is_the_answer(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    used = Used(run_seconds=2.0, install_seconds=1.0, peak_bytes=9)

    assert await worker.report(succeeded(dealt, b"[1]", used=used)) == [200]

    row = await world.task(dealt.id)
    assert (row.state.word, row.encoding, row.outcome) == ("succeeded", Encoding.JSON, b"[1]")
    assert (row.used, row.ended_at) == (used, world.clock.now)
    (ended,) = world.ended
    assert (ended.id, ended.state.word, ended.outcome) == (dealt.id, "succeeded", b"[1]")


@pytest.mark.parametrize("answer", [b"2.0", b"y" * 3000])
@pytest.mark.parametrize("options", [{}, {"tags": ("a",)}, {"timeout": AUTO}])
@pytest.mark.parametrize("attempts", [1, 2])
async def test_who_waits_is_told_the_task_as_it_is_read(
    world: World, answer: bytes, options: dict[str, Any], attempts: int
) -> None:
    task = new_task()
    world.store.watched = lambda: ({task.id}, ())
    await world.submit(task, kind=spec(max_attempts=attempts, **options))
    worker = await world.worker()
    for _ in range(attempts - 1):
        await worker.report(failed(await worker.take_one()))
        await world.advance(3600.0)
    used = Used(run_seconds=2.0, sandbox=3)

    await worker.report(succeeded(await worker.take_one(), answer, used=used))

    told = world.ended[-1].task
    must_be_told = isinstance(world, SqliteWorld) and attempts == 1 and "timeout" not in options
    assert told == await world.task(task.id) or (told is None and not must_be_told)


@pytest.mark.parametrize("size", [0, 1024, 1025, 60_000])
@pytest.mark.parametrize("is_late", [False, True])
async def test_an_answer_comes_out_as_it_went_in(world: World, size: int, is_late: bool) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(61.0 if is_late else 1.0)

    assert await worker.report(succeeded(dealt, b"x" * size)) == [200]

    assert (await world.task(dealt.id)).outcome == b"x" * size
    assert await worker.report(succeeded(dealt, b"x" * size)) == [200]
    assert await worker.report(succeeded(dealt, b"y" * size + b"y")) == [409]


async def test_the_same_answer_again_is_a_duplicate(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    report = succeeded(await worker.take_one(), b"y" * 3000)
    await worker.exchange(report)

    (decided,) = (await worker.exchange(report)).decisions

    assert (decided.status, decided.duplicate) == (200, True)


async def test_another_answer_for_an_ended_task_changes_nothing(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(succeeded(dealt, b"1"))

    assert await worker.report(succeeded(dealt, b"2"), failed(dealt)) == [409, 409]
    assert (await world.task(dealt.id)).outcome == b"1"
    assert len(world.ended) == 1


async def test_of_two_reports_for_one_lease_in_one_exchange_the_first_counts(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    result = await worker.exchange(succeeded(dealt, b"1"), succeeded(dealt, b"2"))

    assert [each.status for each in result.decisions] == [200, 409]
    assert (await world.task(dealt.id)).outcome == b"1"


async def test_one_report_twice_in_one_exchange_is_a_duplicate(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    dealt = await worker.take_one()

    result = await worker.exchange(failed(dealt), failed(dealt))

    assert [(each.status, each.duplicate) for each in result.decisions] == [
        (200, False),
        (200, True),
    ]


async def test_an_unknown_lease_is_not_found(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    unknown = msgspec.structs.replace(succeeded(dealt), lease=LeaseKey(999, 1, b"s" * 16))
    no_lease = msgspec.structs.replace(succeeded(dealt), lease=None)

    assert await worker.report(unknown, no_lease) == [404, 404]


async def test_a_lease_of_another_worker_is_not_found(world: World) -> None:
    await world.submit()
    worker, thief = await world.worker(), await world.worker()
    dealt = await worker.take_one()

    assert await thief.report(succeeded(dealt)) == [404]
    assert await world.state(dealt.id) == "running"


async def test_a_lease_that_another_worker_lost_is_not_found(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(61)
    thief = await world.worker()

    assert await thief.report(succeeded(dealt)) == [404]
    assert await world.state(dealt.id) == "delayed"


async def test_a_wrong_secret_or_attempt_of_ones_own_task_is_a_conflict(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    lease = lease_of(dealt)
    guessed = msgspec.structs.replace(lease, secret=b"s" * 16)
    later = msgspec.structs.replace(lease, attempt=2)

    statuses = await worker.report(
        *[msgspec.structs.replace(succeeded(dealt), lease=each) for each in (guessed, later)]
    )

    assert statuses == [409, 409]
    assert await world.state(dealt.id) == "running"


# ---- failures


async def test_a_failure_is_final_unless_a_retry_was_asked_for(world: World) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()

    assert await worker.report(failed(dealt, error=b'{"kind":"exception"}')) == [200]

    assert await world.state(dealt.id) == "failed"
    assert await world.error_kind(dealt.id) == "exception"


async def test_a_failure_with_retries_left_waits_and_is_leased_again(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    dealt = await worker.take_one()

    assert await worker.report(failed(dealt)) == [200]

    assert await world.state(dealt.id) == "delayed"
    await world.advance(4.9)
    assert await worker.take() == []
    await world.advance(0.1)
    again = await worker.take_one()
    assert (again.id, again.attempt) == (dealt.id, 2)


async def test_the_last_failure_is_final(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    for _ in range(3):
        await world.advance(100)
        dealt = await worker.take_one()
        assert await worker.report(failed(dealt)) == [200]

    assert await world.state(dealt.id) == "failed"
    assert dealt.attempt == 3


async def test_a_kind_of_failure_that_is_not_to_be_retried_is_final(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    dealt = await worker.take_one()

    await worker.report(failed(dealt, kind="timeout"))

    assert await world.state(dealt.id) == "failed"


async def test_the_same_failure_again_is_a_duplicate_while_the_task_goes_on(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    dealt = await worker.take_one()
    await worker.report(failed(dealt))
    await world.advance(100)
    await worker.take_one()

    (decided,) = (await worker.exchange(failed(dealt))).decisions

    assert (decided.status, decided.duplicate) == (200, True)
    assert await world.state(dealt.id) == "running"


async def test_a_late_failure_does_not_end_a_newer_attempt(world: World) -> None:
    await world.submit()
    first, second = await world.worker(), await world.worker()
    dealt = await first.take_one()
    await world.advance(61)
    await world.advance(2)
    newer = await second.take_one()

    assert await first.report(failed(dealt)) == [409]

    assert await world.state(dealt.id) == "running"
    assert await second.report(succeeded(newer)) == [200]


# ---- late successes


@pytest.mark.parametrize("wait", [0.0, 2.0])
async def test_a_late_success_ends_a_task_that_waits(world: World, wait: float) -> None:
    await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(61)
    await world.advance(wait)

    assert await worker.report(succeeded(dealt, b"late")) == [200]

    assert (await world.task(dealt.id)).outcome == b"late"
    await world.advance(10)
    assert await worker.take(5) == []
    assert await worker.report(succeeded(dealt, b"late")) == [200]


async def test_a_late_success_stops_the_worker_that_runs_it_now(world: World) -> None:
    await world.submit()
    slow, fast = await world.worker(), await world.worker()
    old = await slow.take_one()
    await world.advance(61)
    await world.advance(2)
    new = await fast.take_one()
    parked = asyncio.create_task(fast.exchange(wait=20))
    await asyncio.sleep(0)

    assert await slow.report(succeeded(old, b"late")) == [200]

    assert (await parked).stop == [(lease_of(new).text, "gone")]
    assert await fast.report(succeeded(new, b"mine")) == [409]
    assert (await world.task(old.id)).outcome == b"late"


async def test_an_answer_of_an_earlier_generation_is_not_found(world: World) -> None:
    accepted = await world.submit()
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.store.cancel(1, accepted.ids)
    await world.store.retry(1, accepted.ids)

    assert await worker.report(succeeded(dealt)) == [404]
    assert await world.state(dealt.id) == "queued"


@pytest.mark.parametrize("is_restarted", [False, True])
async def test_past_attempts_are_known_after_a_kill(world: World, is_restarted: bool) -> None:
    await world.submit(count=2, kind=RETRIES)
    worker = await world.worker()
    told, untold = await worker.take(2)
    await worker.report(failed(told))
    await world.advance(61)
    if is_restarted:
        await world.kill()

    decisions = (await worker.exchange(failed(told), succeeded(untold))).decisions

    assert [(each.status, each.duplicate) for each in decisions] == [(200, True), (200, False)]


# ---- what is counted


async def test_only_successes_make_the_statistics(world: World) -> None:
    await world.submit(count=3)
    worker = await world.worker()
    first, second, third = await worker.take(3)
    world.clock.advance(5)
    await worker.report(
        succeeded(first, used=Used(run_seconds=2.0, cpu_seconds=1.0)),
        failed(second),
        crashed(third),
    )

    known = world.store.statistics((0, "", "math:sqrt"))

    assert known is not None
    assert (known.calls, known.failures, known.run_seconds) == (1, 1, 2.0)
    assert (known.first_seconds, known.cpu_seconds, known.queue_seconds) == (2.0, 1.0, 0.0)


async def test_estimates_are_judged_as_they_were_at_the_lease(world: World) -> None:
    await world.submit()  # a guess
    await world.submit(count=2, price=Price(0.5, 1.0, 1.5, 2.0, calls=3, model="history"))
    worker = await world.worker()
    first, second, third = await worker.take(3)
    await worker.report(succeeded(first), succeeded(second, used=Used(run_seconds=2.0)))
    await world.kill()  # what was leased is known still
    await worker.report(succeeded(third, used=Used(run_seconds=1.0)))

    for is_restarted in (False, True):
        if is_restarted:
            await world.kill()
        known = world.store.statistics((0, "", "math:sqrt"))
        assert known is not None
        assert (sum(a.judged for a in known.accuracies), known.accuracies[0].guessed) == (2, 1)
        told = overall(known.accuracies)
        assert told.error_factor == pytest.approx(2**0.5)
        assert (told.at_most_p50, told.at_most_p90) == (0.5, 0.5)
        recent = lately(known.accuracies)
        assert (recent.calls, recent.at_most_p90) == (2, 0.5)
        assert recent.error_factor == pytest.approx(told.error_factor)


async def test_a_late_answer_is_judged_too(world: World) -> None:
    await world.submit(price=Price(0.5, 1.0, 1.5, 2.0, calls=3, model="history"))
    worker = await world.worker()
    dealt = await worker.take_one()
    await world.advance(61.0)
    await worker.report(succeeded(dealt, used=Used(run_seconds=4.0)))

    known = world.store.statistics((0, "", "math:sqrt"))

    assert known is not None
    assert overall(known.accuracies).bias_factor == pytest.approx(4.0)


async def test_run_times_are_counted_by_environment(world: World) -> None:
    await world.submit(count=2)
    worker = await world.worker()
    await worker.report(*map(succeeded, await worker.take(2)))
    await world.kill()

    known = world.store.statistics((0, "", "math:sqrt"))

    assert known is not None
    (found,) = stretches(known.paces)
    assert found.all.calls == 2 and found.environment
    assert found.first_at <= found.last_at <= world.clock.now


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
async def test_nonsense_in_a_report_spoils_nothing(world: World, seconds: float) -> None:
    await world.submit()
    worker = await world.worker()
    used = Used(run_seconds=seconds, cpu_seconds=seconds, peak_bytes=2**70)

    assert await worker.report(succeeded(await worker.take_one(), used=used)) == [200]

    known = world.store.statistics((0, "", "math:sqrt"))
    assert known is not None
    assert (known.calls, known.run_seconds, known.peak_bytes) == (1, 0.0, 0)


async def test_logs_are_kept_by_attempt(world: World) -> None:
    await world.submit(kind=RETRIES)
    worker = await world.worker()
    first = await worker.take_one()
    await worker.report(msgspec.structs.replace(failed(first), log=b"one"))
    await world.advance(100)
    await worker.report(succeeded(await worker.take_one(), log=b"two"))

    assert await world.store.logs(first.number) == [(1, b"one"), (2, b"two")]


async def test_ends_are_numbered_in_the_order_of_the_reports(world: World) -> None:
    await world.submit(new_task(), new_task(), new_task())
    worker = await world.worker()
    first, second, third = await worker.take(3)
    await worker.report(succeeded(third), succeeded(first))
    await worker.report(succeeded(second))

    assert [each.id for each in sorted(world.ended, key=lambda each: each.n)] == [
        third.id,
        first.id,
        second.id,
    ]
