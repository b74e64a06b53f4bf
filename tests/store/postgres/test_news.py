"""What servers tell each other: soon, together, and never silently lost."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from task_server.store.postgres.news import News, Told


class Ear:
    """What one server hears."""

    def __init__(self, url: str, server: int) -> None:
        self.heard: asyncio.Queue[Told] = asyncio.Queue()
        self.gaps: asyncio.Queue[bool] = asyncio.Queue()
        self.has_listeners = True
        self.news = News(
            url,
            server,
            self.heard.put_nowait,
            lambda: self.gaps.put_nowait(True),
            has_listeners=lambda: self.has_listeners,
        )

    async def hears(self) -> Told:
        return await asyncio.wait_for(self.heard.get(), 10)


@pytest.fixture
async def ears(database: str) -> AsyncIterator[list[Ear]]:
    ears = [Ear(database, number) for number in (1, 2)]
    for ear in ears:
        await ear.news.start()
    assert await ears[0].hears() == Told(2)  # who starts says so
    yield ears
    for ear in ears:
        await ear.news.close()


async def disconnect(url: str, ear: Ear) -> None:
    assert ear.news._connection is not None
    connection = await asyncpg.connect(url)
    victim = ear.news._connection.get_server_pid()
    await connection.execute("SELECT pg_terminate_backend($1)", victim)
    await connection.close()


async def test_news_reach_the_others_and_not_oneself(ears: list[Ear]) -> None:
    one, other = ears

    one.news.tell(lanes=[3], sessions=[4], batches=[5], ended=6, requests=True)

    assert await other.hears() == Told(1, [3], [4], [5], 6, True)
    assert one.heard.empty()


async def test_news_of_a_moment_are_told_together(ears: list[Ear]) -> None:
    one, other = ears

    for number in range(100):
        one.news.tell(lanes=[number % 3], ended=number)

    assert await other.hears() == Told(1, [0, 1, 2], ended=99)


async def test_too_many_are_told_as_all(ears: list[Ear]) -> None:
    one, other = ears

    one.news.tell(lanes=range(10_000), ended=7)

    assert await other.hears() == Told(1, None, None, None, 7)


async def test_nothing_is_told_when_nobody_is_there(ears: list[Ear]) -> None:
    one, other = ears
    one.has_listeners = False
    one.news.tell(lanes=[1], ended=5)
    one.has_listeners = True

    one.news.tell(lanes=[2])

    assert await other.hears() == Told(1, [2], ended=5)


async def test_whoever_was_cut_off_is_told_to_look_again(database: str, ears: list[Ear]) -> None:
    one, other = ears

    await disconnect(database, other)

    await asyncio.wait_for(other.gaps.get(), 10)
    one.news.tell(lanes=[1])
    while (await other.hears()).lanes != [1]:
        pass


async def test_the_one_that_tells_goes_on_after_a_cut(database: str, ears: list[Ear]) -> None:
    one, other = ears
    one.news.tell(ended=8)
    await other.hears()

    await disconnect(database, one)
    one.news.tell(lanes=[1])

    await asyncio.wait_for(one.gaps.get(), 10)
    # What was on its way when the connection broke may be lost, the places never.
    assert (await other.hears()).ended == 8
    one.news.tell(lanes=[2])
    while 2 not in ((await other.hears()).lanes or []):
        pass


async def test_news_that_cannot_be_read_make_it_look_again(database: str, ears: list[Ear]) -> None:
    connection = await asyncpg.connect(database)

    await connection.execute("NOTIFY task_server, 'hello'")

    for ear in ears:
        await asyncio.wait_for(ear.gaps.get(), 10)
    await connection.close()
