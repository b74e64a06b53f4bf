"""A request that does not arrive in time ends its connection, and no other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from task_server.server import connection
from task_server.server.access import Caller
from task_server.server.bodies import Bodies
from task_server.server.connection import Connection
from task_server.server.heads import MAXIMUM_HEADER_BYTES, MAXIMUM_TARGET_BYTES
from task_server.server.http import Call, Reply
from task_server.server.receipt import Times
from task_server.server.request import Disconnected, Request

WAIT_SECONDS = 10.0
HEAD = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
GET = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"


QUICK = Times(headers=0.3, body=0.3, bytes_per_second=100_000, rest=2.0)
"""Waits less long than the real ones."""


class Place:
    """What reads all that it is sent, and how it went."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: set[Connection] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.bodies: list[int] = []
        self.gone = 0
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.serve = self.read

    async def answer(self, request: Request) -> Reply:
        return await self.serve(request)

    async def read(self, request: Request) -> Reply:
        size, has_more = 0, True
        while has_more:
            await self.may_read.wait()
            try:
                piece, has_more = await request.read()
            except Disconnected:
                self.gone += 1
                raise
            size += len(piece)
        self.bodies.append(size)
        return Reply(b"fine")

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def leave(self) -> None:
        """Close all connections, and wait until the server has too."""
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        while self.connections:  # noqa: ASYNC110  # they tell nobody
            await asyncio.sleep(0.01)


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(place.answer, place.connections, QUICK), "127.0.0.1", 0, backlog=1000
    )
    place.port = server.sockets[0].getsockname()[1]
    yield place
    await place.leave()
    server.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the connection ends."""
    return await asyncio.wait_for(reader.read(), WAIT_SECONDS)


async def drip(writer: asyncio.StreamWriter, data: bytes, *, seconds: float = 0.05) -> None:
    """Send a byte now and then, until it is too late."""
    with contextlib.suppress(OSError):
        for byte in data:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(seconds)


async def test_headers_that_drip_end_with_408(place: Place) -> None:
    reader, writer = await place.connect()
    dripping = asyncio.ensure_future(drip(writer, GET[:-2] + b"x: y\r\n" * 100))

    reply = await rest(reader)

    assert reply.startswith(b"HTTP/1.1 408 ") and b"took too long to arrive" in reply
    assert place.bodies == []
    dripping.cancel()


async def test_a_body_that_drips_ends_with_408_and_its_reader_is_told(place: Place) -> None:
    reader, writer = await place.connect()
    writer.write(HEAD)
    dripping = asyncio.ensure_future(drip(writer, b"x" * 1000))

    reply = await rest(reader)

    assert reply.startswith(b"HTTP/1.1 408 ")
    dripping.cancel()
    await asyncio.sleep(0.1)
    assert (place.bodies, place.gone) == ([], 1)


@pytest.mark.parametrize("sent", [b"", b"\r\n", GET])
async def test_a_connection_without_a_request_ends_without_a_word(
    place: Place, sent: bytes
) -> None:
    reader, writer = await place.connect()
    writer.write(sent)
    if sent == GET:
        assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"\r\n")  # belongs to nothing, and keeps nothing open

    assert await rest(reader) == b""


async def test_a_large_body_that_keeps_its_pace_may_take_longer(place: Place) -> None:
    reader, writer = await place.connect()
    writer.write(HEAD)
    for _ in range(20):
        writer.write(b"x" * 5000)
        await asyncio.sleep(0.05)

    assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")
    assert place.bodies == [100_000]


async def test_a_server_that_does_not_read_blames_no_client(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AHEAD_BYTES", 1 << 15)
    reader, writer = await place.connect()
    place.may_read.clear()
    writer.write(HEAD + b"x" * 99_000)
    await asyncio.sleep(2 * (QUICK.body + 1.0))
    place.may_read.set()
    writer.write(b"x" * 1000)

    assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")
    assert place.bodies == [100_000]


async def test_a_reply_that_takes_long_is_not_cut_off(place: Place) -> None:
    reader, writer = await place.connect()
    place.may_read.clear()
    writer.write(GET)
    await asyncio.sleep(3 * QUICK.headers)
    place.may_read.set()

    assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")


async def test_a_connection_may_rest_between_requests(place: Place) -> None:
    reader, writer = await place.connect()
    for _ in range(2):
        writer.write(GET)
        assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")
        await asyncio.sleep(2 * QUICK.headers)

    assert not reader.at_eof()


async def test_headers_without_end_are_refused(place: Place) -> None:
    reader, writer = await place.connect()
    writer.write(GET[:-2] + b"x: ")
    reply = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))

    for _ in range(MAXIMUM_HEADER_BYTES // 8192 + 2):
        writer.write(b"y" * 8192)
        await asyncio.wait((reply,), timeout=0.01)

    assert (await reply).startswith(b"HTTP/1.1 431 ")
    assert place.bodies == []


@pytest.mark.parametrize(
    ("request_line", "headers", "status"),
    [
        (b"GET /x HTTP/1.1", b"Cookie: a=" + b"y" * 60_000, b"431"),
        (b"GET /x HTTP/1.1", b"x: " + b"y" * 100_000, b"431"),
        (b"GET /x HTTP/1.1", b"\r\n".join(b"x%d: y" % each for each in range(20_000)), b"431"),
        (b"GET /" + b"x" * 20_000 + b" HTTP/1.1", b"x: y", b"414"),
        (b"GET /" + b"x" * 200_000 + b" HTTP/1.1", b"x: y", b"414"),
        (b"GET /x?" + b"y" * 50_000 + b" HTTP/1.1", b"x: y", b"414"),
        (b"GET /x", b"x: y", b"400"),
        (b"GET /x HTTP/0.9", b"x: y", b"400"),
        (b"GET /x HTTP/2.0", b"x: y", b"400"),
        (b"GET /x HTTP/1.1", b"no colon", b"400"),
    ],
    ids=[
        *("a cookie", "a header", "many headers", "a path", "a longer path", "a query"),
        *("no version", "an old version", "a new version", "no colon"),
    ],
)
async def test_heads_that_are_not_taken(
    place: Place, request_line: bytes, headers: bytes, status: bytes
) -> None:
    reader, writer = await place.connect()

    writer.write(request_line + b"\r\nHost: localhost\r\n" + headers + b"\r\n\r\n")
    reply = await rest(reader)

    assert reply.startswith(b"HTTP/1.1 " + status + b" ")
    assert reply.count(b"HTTP/1.1 ") == 1
    assert place.bodies == []


async def test_heads_up_to_the_limits_are_taken_many_at_once_too(place: Place) -> None:
    reader, writer = await place.connect()
    target = b"/" + b"x" * (MAXIMUM_TARGET_BYTES - 1)
    cookie = b"Cookie: " + b"y" * (MAXIMUM_HEADER_BYTES - 100)
    head = b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n" + cookie + b"\r\n\r\n"

    writer.write(head * 5)

    for _ in range(5):
        assert (await reader.readuntil(b"fine")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("size", [0, 1000, 1 << 17, 1 << 20])
async def test_who_waits_is_told_that_the_client_has_gone(place: Place, size: int) -> None:
    waits, awaited = asyncio.Event(), asyncio.get_running_loop().create_future()

    async def wait(request: Request) -> Reply:
        call = Call(request, Caller("user", 1, 1), Bodies(2**24))
        place.bodies.append(len(await call.body(2**24)))
        waits.set()
        try:
            await call.wait(awaited)
        except Disconnected:
            place.gone += 1
            raise
        finally:
            call.end()
        return Reply(b"")

    place.serve = wait
    _, writer = await place.connect()
    writer.write(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
    writer.write(b"x" * size)
    await asyncio.wait_for(waits.wait(), WAIT_SECONDS)

    await asyncio.wait_for(place.leave(), WAIT_SECONDS)

    assert awaited.cancelled()
    assert (place.bodies, place.gone) == ([size], 1)


async def test_who_sends_on_when_refused_reads_why(place: Place) -> None:
    reader, writer = await place.connect()
    writer.write(GET[:-2] + b"x: " + b"y" * MAXIMUM_HEADER_BYTES)
    await asyncio.sleep(0.1)

    for _ in range(20):
        writer.write(b"y" * 8192)
        await writer.drain()
        await asyncio.sleep(0.01)

    assert (await rest(reader)).startswith(b"HTTP/1.1 431 ")


async def test_who_was_late_costs_nothing_any_more(place: Place) -> None:
    reader, writer = await place.connect()
    writer.write(GET[:-2])
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")

    begun = time.process_time()
    await asyncio.sleep(0.6)

    assert time.process_time() - begun < 0.2
