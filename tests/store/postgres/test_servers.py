"""Servers' numbers and the lead: each is one server's at a time, and goes on when that dies."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from task_server.errors import Unavailable
from task_server.store.postgres import servers as module
from task_server.store.postgres.servers import Servers


class Fleet:
    """Servers of one database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.started: list[Servers] = []
        self.lost: list[Servers] = []

    async def start(self) -> Servers:
        server = Servers(self.url, on_lost=lambda: self.lost.append(server))
        self.started.append(server)
        await server.claim()
        return server

    async def do(self, sql: str) -> None:
        connection = await asyncpg.connect(self.url)
        await connection.execute(sql)
        await connection.close()


async def until(happened: Callable[[], object], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not happened():  # of another server
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


@pytest.fixture
async def fleet(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    for name in ("RENEW_SECONDS", "TERM_SECONDS", "LEAD_SECONDS"):
        monkeypatch.setattr(module, name, getattr(module, name) / 10)
    fleet = Fleet(database)
    yield fleet
    for server in fleet.started:
        await server.close()


async def test_each_server_gets_the_least_free_number(fleet: Fleet) -> None:
    first, second = await fleet.start(), await fleet.start()

    await first.close()
    third, fourth = await fleet.start(), await fleet.start()

    assert [each.number for each in (first, second, third, fourth)] == [1, 2, 1, 3]


async def test_servers_that_start_at_once_get_different_numbers(fleet: Fleet) -> None:
    servers = await asyncio.gather(*[fleet.start() for _ in range(8)])

    assert sorted(each.number for each in servers) == list(range(1, 9))


async def test_one_of_them_leads(fleet: Fleet) -> None:
    servers = await asyncio.gather(*[fleet.start() for _ in range(3)])

    await until(lambda: any(each.leads for each in servers))
    await asyncio.sleep(2 * module.RENEW_SECONDS)
    assert sum(each.leads for each in servers) == 1


async def test_the_number_and_the_lead_of_a_dead_server_are_taken_over(fleet: Fleet) -> None:
    first, second = await fleet.start(), await fleet.start()
    assert first.leads and not second.leads

    await first.abandon()

    await until(lambda: second.leads)
    assert not first.leads
    await until(lambda: not first.is_held)
    await asyncio.sleep(0.05)
    assert (await fleet.start()).number == 1


async def test_a_server_that_stops_gives_its_lead_away_at_once(fleet: Fleet) -> None:
    first = await fleet.start()

    await first.close()

    assert (await fleet.start()).leads


async def test_a_server_renews_as_long_as_it_lives(fleet: Fleet) -> None:
    server = await fleet.start()

    await asyncio.sleep(1.2 * module.TERM_SECONDS)

    assert server.is_held and server.leads
    assert (await fleet.start()).number == 2


async def test_a_server_whose_number_was_taken_stops(fleet: Fleet) -> None:
    server = await fleet.start()

    await fleet.do("UPDATE servers SET name = 'another'")

    await until(lambda: fleet.lost)
    assert fleet.lost == [server] and not server.is_held and not server.leads
    with pytest.raises(Unavailable):
        server.check()


async def test_a_server_cut_off_may_not_write_and_comes_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await fleet.start()
    server.take_new_terms()

    async def refuse(url: str) -> None:
        raise ConnectionRefusedError("cut off")

    with monkeypatch.context() as cut:
        cut.setattr(module, "connect_to_keep", refuse)
        server._drop()
        await until(lambda: not server.is_held)
        assert not server.is_reachable and not server.leads

    await until(lambda: server.is_held and server.leads)
    assert server.is_reachable and fleet.lost == []


async def test_servers_know_of_each_other(fleet: Fleet) -> None:
    first = await fleet.start()
    assert not first.has_others

    second = await fleet.start()

    assert second.has_others
    await until(lambda: first.has_others)
    await second.close()
    await until(lambda: not first.has_others)


async def test_only_a_server_that_starts_alone_gives_new_terms(fleet: Fleet) -> None:
    first, second = await fleet.start(), await fleet.start()

    assert first.take_new_terms() == 0.0
    assert second.take_new_terms() is None
    assert first.take_new_terms() is None


async def test_a_server_that_follows_a_killed_one_at_once_gives_new_terms(fleet: Fleet) -> None:
    first = await fleet.start()
    await first.abandon()

    second, third = await fleet.start(), await fleet.start()

    assert second.number == 2 and second.has_others
    await until(lambda: not second._doubted and not third._doubted)
    terms = second.take_new_terms(), third.take_new_terms()
    assert terms == (0.0, 0.0), "before either may end leases"


async def test_nobody_leads_before_it_is_known_who_lived(fleet: Fleet) -> None:
    first, second = await fleet.start(), await fleet.start()
    await second.abandon()
    await first.close()

    third = await fleet.start()

    assert not third.leads
    await until(lambda: third.leads)
    assert third.take_new_terms() == 0.0


async def test_a_server_that_joins_living_ones_gives_no_new_terms(fleet: Fleet) -> None:
    first = await fleet.start()
    second = await fleet.start()

    await until(lambda: not second._doubted)  # the first has renewed since
    await first.close()

    await until(lambda: second.leads)
    assert second.take_new_terms() is None


async def test_a_database_that_was_restarted_gives_new_terms(fleet: Fleet) -> None:
    server = await fleet.start()
    server.take_new_terms()

    server._started_at = 1.0  # as if it had been another PostgreSQL before

    await until(lambda: server._started_at != 1.0)
    assert server.take_new_terms() == 0.0


async def test_a_clock_that_was_set_gives_new_terms(fleet: Fleet) -> None:
    server = await fleet.start()
    server.take_new_terms()
    assert server._offset is not None

    server._offset -= 1000  # as if the database's clock had been set ahead since

    await until(lambda: server._new_terms)
    assert server.take_new_terms() == pytest.approx(1000, abs=1)
