"""Which of several parked workers gets a task."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from task_server.protocol.workers import EnvironmentState
from task_server.scheduling.statistics import Price
from task_server.store.attempts import Used
from task_server.store.sessions import ExchangeResult
from tests.store.world import SPEC, Worker, World, ids, new_task, succeeded

KNOWN = Price(10.0, 10.0, 10.0, 10.0, 10, "history")
SHORT = Price(1.0, 1.0, 1.0, 1.0, 10, "history")
BUILD_SECONDS = 30.0
ENVIRONMENT = SPEC.environment or ""


async def ran(world: World, worker: Worker, *, seconds: float, install: float = 0.0) -> None:
    """Let it run what was predicted to take 10 s."""
    await world.submit(count=20, price=KNOWN)
    used = Used(run_seconds=seconds, install_seconds=install)
    await worker.report(*(succeeded(each, used=used) for each in await worker.take(20)))


async def tell(worker: Worker, state: str) -> None:
    """It tells how it is with the environment of all tasks here."""
    told = msgspec.convert({"digest": ENVIRONMENT, "state": state}, EnvironmentState)
    await worker.exchange(environments=[told])


async def parked(*workers: Worker, want: int = 1) -> list[asyncio.Task[ExchangeResult]]:
    """They ask, in this order, and wait."""
    asking = []
    for worker in workers:
        asking.append(asyncio.ensure_future(worker.exchange(want=want, wait=20.0)))
        await asyncio.sleep(0)
    return asking


async def test_the_faster_of_two_idle_workers_gets_the_task(world: World) -> None:
    slow, fast = await world.worker(slots=20), await world.worker(slots=20)
    await ran(world, slow, seconds=30.0)
    await ran(world, fast, seconds=5.0)
    asking = await parked(slow, fast)
    await world.submit()

    done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    assert [each.result().tasks for each in done] != [[]] and done == {asking[1]}
    world.store.release_parked()
    await asyncio.gather(*waiting)


async def test_how_fast_workers_are_is_known_after_a_restart(world: World) -> None:
    slow, fast = await world.worker(slots=20), await world.worker(slots=20)
    await ran(world, slow, seconds=30.0)
    await ran(world, fast, seconds=5.0)
    await world.restart()
    asking = await parked(slow, fast)
    await world.submit()

    done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    assert done == {asking[1]}
    world.store.release_parked()
    await asyncio.gather(*waiting)


@pytest.mark.parametrize("warm_first", [False, True])
async def test_a_task_goes_to_who_has_its_environment(world: World, warm_first: bool) -> None:
    cold, warm = await world.worker(slots=20), await world.worker(slots=20)
    await ran(world, warm, seconds=10.0, install=BUILD_SECONDS)
    await tell(warm, "ready")
    asking = await parked(*((warm, cold) if warm_first else (cold, warm)))
    await world.submit(price=SHORT)

    done, waiting = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)

    assert done == {asking[0 if warm_first else 1]}
    world.store.release_parked()
    await asyncio.gather(*waiting)


async def test_a_task_waits_for_a_warm_worker_that_is_free_soon(world: World) -> None:
    cold, warm = await world.worker(slots=20), await world.worker(slots=1)
    await ran(world, cold, seconds=10.0, install=BUILD_SECONDS)
    await tell(warm, "ready")
    await world.submit(price=KNOWN)
    (running,) = await warm.take(1)
    world.clock.advance(2.0)
    task = new_task()
    await world.submit(task, price=KNOWN)

    early = await cold.take(1)
    await warm.report(succeeded(running))
    given = await warm.take(1)

    assert (ids(early), ids(given)) == ([], [task.id])


@pytest.mark.parametrize("price", [SHORT, Price(1e3, 1e3, 1e3, 1e3, 10, "history")])
async def test_it_does_not_wait_past_its_due_time_or_longer_than_a_build_takes(
    world: World, price: Price
) -> None:
    cold, warm = await world.worker(slots=20), await world.worker(slots=1)
    await ran(world, cold, seconds=10.0, install=BUILD_SECONDS)
    await tell(warm, "ready")
    await world.submit(price=KNOWN)
    await warm.take(1)
    await world.submit(price=price)

    at_once = await cold.take(1)
    await world.advance(BUILD_SECONDS + 1.0)
    later = await cold.take(1)

    assert (len(at_once), len(later)) == (0, 1)


async def test_it_goes_to_a_cold_worker_where_the_warm_one_is_busy_for_longer(
    world: World,
) -> None:
    cold, warm = await world.worker(slots=20), await world.worker(slots=1)
    await ran(world, cold, seconds=10.0, install=BUILD_SECONDS)
    await tell(warm, "ready")
    await world.submit(price=Price(100.0, 100.0, 100.0, 100.0, 10, "history"))
    await warm.take(1)
    world.clock.advance(2.0)  # servers look around once a second
    await world.submit(price=KNOWN)

    assert len(await cold.take(1)) == 1
