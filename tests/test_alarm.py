from __future__ import annotations

import asyncio

from task_server.alarm import Alarm

HOUR = 3600.0


async def test_it_rings_once_at_the_nearest_of_its_moments() -> None:
    loop, rung = asyncio.get_running_loop(), asyncio.Semaphore(0)
    alarm = Alarm(loop, rung.release)

    for seconds in (HOUR, 0.02, 0.01, HOUR):
        alarm.set(loop.time() + seconds)

    await asyncio.wait_for(rung.acquire(), 10)
    await asyncio.sleep(0.03)
    assert rung.locked(), "it rang again"


async def test_it_can_be_set_after_it_rang_and_after_it_was_stopped() -> None:
    loop, rung = asyncio.get_running_loop(), asyncio.Semaphore(0)
    alarm = Alarm(loop, rung.release)
    alarm.set(loop.time())
    await asyncio.wait_for(rung.acquire(), 10)

    alarm.set(loop.time())
    alarm.stop()
    alarm.set(loop.time() + 0.01)

    await asyncio.wait_for(rung.acquire(), 10)
    await asyncio.sleep(0.03)
    assert rung.locked(), "what was stopped rang too"
