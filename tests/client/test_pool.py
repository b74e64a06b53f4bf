from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from task_server.client import pool
from task_server.client.address import address_of
from task_server.client.aio import AsyncTransport
from task_server.client.pool import Pool
from task_server.errors import ServerUnreachable
from tests.client.raw_server import OK, Link, Talk, raw_server, silent, until

# ---- kept connections


async def test_a_connection_is_kept() -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        for _ in range(3):
            assert (await transport.request("POST", "/x", b"{}")).body == b"fine"

    assert server.connections == 1


async def answer_once(link: Link) -> None:
    await link.hear()
    await link.say(OK)


async def answer_with_more(link: Link) -> None:
    await link.hear()
    await link.say(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
    await asyncio.Event().wait()


async def answer_and_say_more(link: Link) -> None:
    await link.hear()
    await link.say(OK)
    await asyncio.sleep(0.02)
    await link.say(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
    await asyncio.Event().wait()


async def answer_for_the_last_time(link: Link) -> None:
    await link.hear()
    await link.say(OK.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    "talk", [answer_once, answer_with_more, answer_and_say_more, answer_for_the_last_time]
)
async def test_a_connection_that_cannot_be_used_again_is_replaced(talk: Talk) -> None:
    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        replies = []
        for _ in range(3):
            replies.append(await transport.request("POST", "/x", b"{}"))
            await asyncio.sleep(0.05)

    assert [reply.body for reply in replies] == [b"fine"] * 3
    assert server.connections == 3


async def test_a_connection_that_was_idle_for_long_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/x")
        monkeypatch.setattr(pool, "IDLE_SECONDS", 0.0)
        await transport.request("GET", "/x")

    assert server.connections == 2


def dies_with(request: int, said: bytes = b"") -> Talk:
    """Answers, but ends each connection with that request, of which it says so much."""

    async def talk(link: Link) -> None:
        for _ in range(request - 1):
            await link.hear()
            await link.say(OK)
        await link.hear()
        await link.say(said)

    return talk


async def test_a_lost_request_on_a_kept_connection_is_sent_once_more_if_that_is_safe() -> None:
    async with raw_server(dies_with(2)) as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/1")
        reply = await transport.request("PUT", "/2", b"content")

    assert reply.body == b"fine"
    assert [request.split()[1] for request in server.requests] == [b"/1", b"/2", b"/2"]


async def test_a_lost_download_on_a_kept_connection_is_asked_for_once_more(tmp_path: Path) -> None:
    async with raw_server(dies_with(2)) as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/1")
        await transport.download("/2", tmp_path / "copy")

    assert (tmp_path / "copy").read_bytes() == b"fine"
    assert [request.split()[1] for request in server.requests] == [b"/1", b"/2", b"/2"]


async def test_it_is_not_sent_a_third_time(tmp_path: Path) -> None:
    async def talk(link: Link) -> None:
        await link.hear()
        if link.number == 1:
            await link.say(OK)
            await link.hear()

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/1")
        with pytest.raises(ServerUnreachable):
            await transport.request("GET", "/2")
        with pytest.raises(ServerUnreachable):
            await transport.download("/3", tmp_path / "copy")

    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("method", "said"),
    [("POST", b""), ("GET", b"H"), ("GET", b"HTTP/1.1 100 Continue\r\n\r\n")],
)
async def test_what_may_have_been_done_or_was_answered_is_not_sent_again(
    method: str, said: bytes
) -> None:
    async with raw_server(dies_with(2, said)) as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/1")
        with pytest.raises(ServerUnreachable):
            await transport.request(method, "/2")

    assert len(server.requests) == 2


async def test_what_is_lost_on_a_new_connection_is_not_sent_again() -> None:
    async with raw_server(dies_with(1)) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable):
            await transport.request("GET", "/1")

    assert len(server.requests) == 1


# ---- so many at once


class Gate:
    """Answers one request each time it is opened."""

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(0)
        self.heard = 0

    async def talk(self, link: Link) -> None:
        while True:
            request = await link.hear()
            self.heard += 1
            await self.turns.acquire()
            path = request.split()[1]
            await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path), path))


async def test_more_requests_than_connections_wait_for_each_other() -> None:
    gate = Gate()
    async with (
        raw_server(gate.talk) as server,
        AsyncTransport(server.url, connections=3) as transport,
    ):
        asked = [asyncio.ensure_future(transport.request("GET", f"/{n}")) for n in range(20)]
        await until(lambda: gate.heard == 3)
        for _ in asked:
            gate.turns.release()
        replies = await asyncio.gather(*asked)

    assert [reply.body for reply in replies] == [b"/%d" % n for n in range(20)]
    assert server.connections == 3


async def test_a_request_that_gives_up_waiting_leaves_its_turn_to_the_next() -> None:
    gate = Gate()
    async with (
        raw_server(gate.talk) as server,
        AsyncTransport(server.url, connections=1) as transport,
    ):
        first = asyncio.ensure_future(transport.request("GET", "/first"))
        await until(lambda: gate.heard == 1)
        late = asyncio.ensure_future(transport.request("GET", "/late", timeout=0.05))
        last = asyncio.ensure_future(transport.request("GET", "/last"))
        with pytest.raises(ServerUnreachable, match="timed out"):
            await late
        for _ in range(2):
            gate.turns.release()
        replies = [await first, await last]

    assert [reply.body for reply in replies] == [b"/first", b"/last"]


async def test_who_waits_goes_on_when_a_connection_fails() -> None:
    async with (
        raw_server(silent) as server,
        AsyncTransport(server.url, connections=1) as transport,
    ):
        asked = [transport.request("GET", "/x", timeout=0.05 * n) for n in (1, 4)]
        outcomes = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [ServerUnreachable] * 2
    assert server.connections == 2


async def test_a_turn_that_came_to_one_who_left_goes_to_the_next() -> None:
    async with raw_server() as server:
        connections = Pool(address_of(server.url), most=1, tls=None)
        first = await connections.take()
        leaving = asyncio.ensure_future(connections.take())
        staying = asyncio.ensure_future(connections.take())
        await asyncio.sleep(0)

        connections.give_back(first)
        leaving.cancel()

        async with asyncio.timeout(5):
            assert (await staying).is_open()
        assert leaving.cancelled()
        connections.close()


async def test_a_connection_that_is_there_after_closing_is_closed() -> None:
    async with raw_server() as server:
        connections = Pool(address_of(server.url), most=1, tls=None)
        opening = asyncio.ensure_future(connections.take())
        await asyncio.sleep(0)

        connections.close()

        with pytest.raises(ConnectionError):
            await opening


async def test_closing_ends_what_is_under_way_and_what_waits() -> None:
    async with raw_server(silent) as server:
        transport = AsyncTransport(server.url, connections=1)
        asked = [asyncio.ensure_future(transport.request("GET", "/x")) for _ in range(3)]
        await until(lambda: len(server.requests) == 1)
        await transport.close()
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        with pytest.raises(ServerUnreachable, match="closed"):
            await transport.request("GET", "/x")

    assert [type(outcome) for outcome in outcomes] == [ServerUnreachable] * 3
