"""The way to the indexes and nowhere else: real sockets in front of it and behind it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from task_server.worker.indexes import Indexes
from task_server.worker.sandbox import relay
from task_server.worker.sandbox.relay import Refusal, Relay, parse
from tests.environments.small_index import SmallIndex, small_index

Meet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def index() -> Iterator[SmallIndex]:
    with small_index() as index:
        index.files["greet.txt"] = b"hello"
        yield index


def port_of(index: SmallIndex) -> int:
    return int(index.url.rpartition(":")[2])


def leading_to(*ports: int, environ: dict[str, str] | None = None) -> Relay:
    indexes = Indexes("/nowhere/uv", {}, more=[("127.0.0.1", port) for port in ports])
    return Relay(indexes, environ or {})


@asynccontextmanager
async def at(relay: Relay) -> AsyncIterator[int]:
    """The port where it listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = await relay.serve(listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def served(meet: Meet) -> AsyncIterator[int]:
    server = await asyncio.start_server(meet, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def said(port: int, *parts: bytes) -> bytes:
    """All that is answered to these, each sent when something was answered to the one before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    try:
        for number, part in enumerate(parts):
            if number:
                answer += await reader.read(1 << 16)
            writer.write(part)
        return answer + await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return answer
    finally:
        writer.close()


def tunnel(port: int) -> bytes:
    return f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_a_tunnel_leads_to_an_index(index: SmallIndex) -> None:
    asked = b"GET /files/greet.txt HTTP/1.0\r\n\r\n"

    async with at(leading_to(port_of(index))) as port:
        answer = await said(port, tunnel(port_of(index)), asked)

    assert answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"\r\n\r\nhello")


async def test_a_page_of_an_index_is_got_as_proxies_do(index: SmallIndex) -> None:
    asked = f"GET {index.url}/files/greet.txt HTTP/1.1\r\nHost: else.example\r\n\r\n".encode()

    async with at(leading_to(port_of(index))) as port:
        answer = await said(port, asked)

    assert answer.startswith(b"HTTP/1.0 200 ") and answer.endswith(b"\r\n\r\nhello")


async def test_nothing_else_is_reached(index: SmallIndex) -> None:
    requests = (
        tunnel(port_of(index)),
        f"GET {index.url}/files/greet.txt HTTP/1.1\r\n\r\n".encode(),
        b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n",
    )
    way = leading_to(1)

    async with at(way) as port:
        answers = [await said(port, request) for request in requests]

    assert [answer[:13] for answer in answers] == [b"HTTP/1.1 403 "] * 3
    assert index.requests == 0
    assert way.take_refused() == [f"127.0.0.1:{port_of(index)}", "169.254.169.254:80"]
    assert way.take_refused() == []


async def test_a_second_request_on_a_connection_is_never_passed_on() -> None:
    heads: list[bytes] = []

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        with contextlib.suppress(TimeoutError):
            heads.append(await asyncio.wait_for(reader.read(100), 0.2))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        writer.close()

    async with served(meet) as there, at(leading_to(there)) as port:
        first = f"GET http://127.0.0.1:{there}/one?a=b HTTP/1.1\r\nHost: two.example\r\n\r\n"
        answer = await said(port, first.encode() + b"GET /two HTTP/1.1\r\n\r\n")

    assert answer.endswith(b"hello")
    assert heads == [
        f"GET /one?a=b HTTP/1.1\r\nHost: 127.0.0.1:{there}\r\nConnection: close\r\n\r\n".encode()
    ]


async def test_an_index_that_is_away_is_told() -> None:
    async with at(leading_to(1)) as port:
        answer = await said(port, tunnel(1))

    assert answer.startswith(b"HTTP/1.1 502 The index cannot be reached\r\n")


async def test_a_tunnel_goes_through_the_proxy_of_the_worker(index: SmallIndex) -> None:
    heads: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.write(b"from the proxy: " + await reader.read(100))
        writer.close()

    async with served(proxy) as proxy_port:
        environ = {"HTTPS_PROXY": f"http://me:a%40b@127.0.0.1:{proxy_port}"}
        async with at(leading_to(7, environ=environ)) as port:
            answer = await said(port, tunnel(7), b"hello")

    assert answer.endswith(b"\r\n\r\nfrom the proxy: hello")
    assert b"CONNECT 127.0.0.1:7 " in heads[0]
    assert b"Proxy-Authorization: Basic bWU6YUBi\r\n" in heads[0]


@pytest.mark.parametrize(
    ("exempt", "is_direct"), [("127.0.0.1", True), ("27.0.0.1", False), ("*", True)]
)
async def test_not_where_no_proxy_is_to_be_used(
    index: SmallIndex, exempt: str, is_direct: bool
) -> None:
    environ = {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": f"x.example, {exempt}"}

    async with at(leading_to(port_of(index), environ=environ)) as port:
        answer = await said(port, tunnel(port_of(index)), b"GET / HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 200 ") == is_direct


async def test_no_more_than_so_many_connections_are_held(
    index: SmallIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "CONNECTIONS", 1)

    async with at(leading_to(port_of(index))) as port:
        _, first = await asyncio.open_connection("127.0.0.1", port)
        answer = await said(port, tunnel(port_of(index)))
        first.close()

    assert answer == b""


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST http://one.example/ HTTP/1.1\r\n\r\n", "405"),
        (b"GET /path HTTP/1.1\r\n\r\n", "400"),
        (b"GET https://one.example/ HTTP/1.1\r\n\r\n", "400"),
        (b"GET http://one.example/ HTTP/1.1\r\nContent-Length: 3\r\n\r\n", "400"),
        (b"GET http://one.example/ HTTP/1.1\r\nA: b\nHost: two.example\r\n\r\n", "400"),
        (b"GET http://one.example/ HTTP/2\r\n\r\n", "405"),
        (b"CONNECT one.example:x HTTP/1.1\r\n\r\n", "400"),
        (b"CONNECT  HTTP/1.1\r\n\r\n", "405"),
        (b"\x16\x03\x01\xff\r\n\r\n", "400"),
    ],
)
def test_what_is_no_request_to_a_proxy_is_refused(head: bytes, status: str) -> None:
    with pytest.raises(Refusal, match=f"^{status} "):
        parse(head)


async def test_a_head_without_end_is_refused() -> None:
    async with at(leading_to()) as port:
        answer = await said(port, b"CONNECT one.example:" + b"1" * relay.HEAD_BYTES)

    assert answer.startswith(b"HTTP/1.1 431 ")
