"""Requests on one connection are answered in turn, in the way that each asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from task_server.errors import Unavailable
from task_server.server.connection import JOINED_BYTES, Connection
from task_server.server.http import Reply
from task_server.server.request import Request

SECONDS = 10.0
HOST = b"Host: localhost\r\n"


def get(path: bytes, *headers: bytes, version: bytes = b"1.1") -> bytes:
    """A request without a body."""
    lines = [b"GET %b HTTP/%b" % (path, version), b"Host: localhost", *headers]
    return b"\r\n".join((*lines, b"", b""))


REPLIES = {
    "/large": Reply(b"x" * (JOINED_BYTES + 1)),
    "/nothing": Reply(b"", 204),
    "/two lines": Reply(b"", headers=((b"x", b"a\r\nb: c"),)),
}


class Place:
    """Answers with what it was asked for, and remembers that."""

    def __init__(self) -> None:
        self.port = 0
        self.connections: set[Connection] = set()
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.pieces_read: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.given_bytes = 0
        self.streams = {
            "/stream": Reply(self.pieces(3)),
            "/much": Reply(self.pieces(1000, 1 << 16)),
            "/short": Reply(self.pieces(1), size=100),
            "/broken": Reply(self.breaking()),
        }

    async def answer(self, request: Request) -> Reply:
        self.asked.append(request.path)
        await self.may_answer.wait()
        if request.path in REPLIES:
            return REPLIES[request.path]
        if request.path in self.streams:
            return self.streams[request.path]
        if request.path in ("/body", "/pieces"):
            body, has_more = b"", True
            while has_more:
                piece, has_more = await request.read(1 if request.path == "/body" else 1000)
                self.pieces_read.append(len(piece))
                body += piece
            self.bodies.append(body)
        return Reply(request.path.encode())

    async def pieces(self, count: int, size: int = 2) -> AsyncIterator[bytes]:
        for number in range(count):
            self.given_bytes += size
            yield b"%d" % (number % 10) * size
            await asyncio.sleep(0)

    async def breaking(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise Unavailable("the disk is gone")

    async def sent(self, data: bytes, *, seconds: float = SECONDS) -> bytes:
        """All that comes back until the connection ends."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        found = await asyncio.wait_for(reader.read(), seconds)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return found


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    server = await asyncio.get_running_loop().create_server(
        lambda: Connection(place.answer, place.connections), "127.0.0.1", 0
    )
    place.port = server.sockets[0].getsockname()[1]
    yield place
    server.close()
    for connection in tuple(place.connections):
        connection.abort()
    await asyncio.sleep(0.01)
    assert not place.connections


LAST = b"Connection: close"


async def test_requests_that_come_at_once_are_answered_in_turn(place: Place) -> None:
    found = await place.sent(get(b"/a") + get(b"/b") + get(b"/c", LAST) + get(b"/d"))

    assert place.asked == ["/a", "/b", "/c"]
    heads = found.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [head.rpartition(b"\r\n\r\n")[2] for head in heads] == [b"/a", b"/b", b"/c"]
    assert [b"connection: close" in head for head in heads] == [False, False, True]


async def test_one_request_is_answered_at_a_time(place: Place) -> None:
    place.may_answer.clear()
    asking = asyncio.ensure_future(place.sent(get(b"/a") + get(b"/b", LAST)))
    await asyncio.sleep(0.1)

    assert place.asked == ["/a"]
    place.may_answer.set()
    assert (await asking).count(b"HTTP/1.1 200 ") == 2


async def test_bodies_belong_to_their_requests(place: Place) -> None:
    post = b"POST /body HTTP/1.1\r\n" + HOST
    chunked = b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    sized = b"Connection: close\r\nContent-Length: 4\r\n\r\ndefg"

    await place.sent(post + chunked + get(b"/b") + post + sized)

    assert place.bodies == [b"abc", b"defg"]


@pytest.mark.parametrize("size", [JOINED_BYTES, 1 << 23])
async def test_a_body_that_nobody_read_is_passed_over(place: Place, size: int) -> None:
    post = b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size

    found = await place.sent(post + b"x" * size + get(b"/b", LAST))

    assert place.asked == ["/a", "/b"] and found.endswith(b"\r\n\r\n/b")


async def test_streams_have_chunks(place: Place) -> None:
    found = await place.sent(get(b"/stream", LAST))

    head, _, body = found.partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head and b"content-length" not in head
    assert body == b"2\r\n00\r\n2\r\n11\r\n2\r\n22\r\n0\r\n\r\n"


async def test_http_1_0_has_no_chunks_and_ends_after_a_reply(place: Place) -> None:
    found = await place.sent(get(b"/stream", b"Connection: keep-alive", version=b"1.0"))

    head, _, body = found.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert body == b"001122"


async def test_a_head_is_asked_for_alone(place: Place) -> None:
    asked = get(b"/large").replace(b"GET", b"HEAD") + get(b"/stream").replace(b"GET", b"HEAD")

    found = await place.sent(asked + get(b"/b", LAST))

    assert found.count(b"HTTP/1.1 200 OK") == 3
    assert b"content-length: %d\r\n\r\nHTTP/1.1" % (JOINED_BYTES + 1) in found
    assert place.given_bytes == 0


async def test_large_replies_and_those_without_a_body(place: Place) -> None:
    found = await place.sent(get(b"/large") + get(b"/nothing", LAST))

    large, _, nothing = found.partition(b"HTTP/1.1 204 No Content\r\n")
    assert large.endswith(b"\r\n\r\n" + b"x" * (JOINED_BYTES + 1))
    assert nothing.endswith(b"\r\n\r\n") and b"content-length" not in nothing


async def test_a_body_comes_once_its_client_hears_that_it_may(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"POST /body HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\n")
    writer.write(b"Content-Length: 3\r\nConnection: close\r\n\r\n")

    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")

    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    assert place.bodies == [b"abc"]
    writer.close()


async def test_who_wants_large_pieces_of_a_body_is_not_woken_for_small_ones(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(b"POST /pieces HTTP/1.1\r\n" + HOST + b"Content-Length: 2600\r\n\r\n")
    for _ in range(26):
        writer.write(b"x" * 100)
        await asyncio.sleep(0.002)
    await asyncio.wait_for(reader.readuntil(b"/pieces"), SECONDS)
    writer.close()

    assert place.bodies == [b"x" * 2600]
    assert len(place.pieces_read) == 3 and all(size >= 1000 for size in place.pieces_read[:2])


UPGRADES = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAA\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
}


@pytest.mark.parametrize("name", UPGRADES)
async def test_who_would_rather_speak_something_else_is_answered(place: Place, name: str) -> None:
    """As `curl --http2` asks, with a body too."""
    post = b"POST /body HTTP/1.1\r\n" + HOST + UPGRADES[name] + b"Content-Length: 3\r\n\r\nabc"

    found = await place.sent(post + get(b"/b", LAST))

    assert place.bodies == [b"abc"] and place.asked == ["/body", "/b"]
    assert found.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("path", [b"/broken", b"/short"])
async def test_a_reply_that_cannot_be_told_is_cut_off(
    place: Place, path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    found = await place.sent(get(path))

    assert found.startswith(b"HTTP/1.1 200 ") and not found.endswith(b"0\r\n\r\n")
    assert "cut off" in caplog.text


async def test_a_header_has_one_line(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    found = await place.sent(get(b"/two%20lines"))

    assert found == b"" and "more than one line" in caplog.text


async def test_who_does_not_read_is_not_sent_all(place: Place) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port, limit=1024)
    writer.write(get(b"/much", LAST))
    await asyncio.sleep(0.5)

    assert 0 < place.given_bytes < 30_000_000
    size = 0
    while piece := await asyncio.wait_for(reader.read(1 << 20), SECONDS):
        size += len(piece)
    assert size > 1000 * (1 << 16) and place.given_bytes == 1000 * (1 << 16)
    writer.close()


async def test_a_connection_that_is_to_stop_answers_what_it_began(place: Place) -> None:
    place.may_answer.clear()
    asking = asyncio.ensure_future(place.sent(get(b"/a") + get(b"/b")))
    resting = asyncio.ensure_future(place.sent(b""))
    await asyncio.sleep(0.1)

    for connection in tuple(place.connections):
        connection.stop()
    place.may_answer.set()

    assert await resting == b""
    found = await asking
    assert found.count(b"HTTP/1.1 200 ") == 1 and b"connection: close" in found
    assert place.asked == ["/a"]
