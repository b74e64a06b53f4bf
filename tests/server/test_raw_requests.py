"""What comes over a socket and is no request that a server should take, by the status it gets.

Written from the interface and RFC 9112 alone, as a stranger's program would send it; bodies and
fields of well-framed requests are in test_bad_input.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from msgspec import Struct

from task_server.server.connection import Connection
from tests.server.asgi import App, application

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECONDS = 10.0
CLOSED = 0
"""The status of a connection that ends without a word."""
TASK = b'{"function": "pow", "args": [2, 3]}'
LOOK = b"GET /livez HTTP/1.1\r\n"
SUBMIT = b"POST /user/submit_task HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
TYPE = b"Content-Type: application/json\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
LEAKS = (b"Traceback", b".py", b"/tmp/", b"site-packages", b"SELECT")


class Reply(Struct):
    """What came back first: 0 for nothing."""

    status: int
    head: bytes
    body: bytes


class Server:
    """A server on a socket."""

    def __init__(self, app: App, port: int) -> None:
        self.app = app
        self.token = b"Authorization: Bearer " + app.tokens["user"].encode() + b"\r\n"
        self._port = port

    async def sent(self, data: bytes, *, ends: bool = False) -> Reply:
        """What comes back for these bytes, after which we close our side if it `ends`."""
        async with self._connected() as (reader, writer):
            with contextlib.suppress(OSError):  # it need not read what it refuses
                writer.write(data.replace(b"TOKEN\r\n", self.token))
                await writer.drain()
                if ends:
                    writer.write_eof()
            return await asyncio.wait_for(_reply(reader), SECONDS)

    async def told_to_go_on(self, head: bytes, body: bytes) -> tuple[bytes, Reply]:
        """What comes back for a head, and then for the body that follows once that is there."""
        async with self._connected() as (reader, writer):
            writer.write(head.replace(b"TOKEN\r\n", self.token))
            first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SECONDS)
            writer.write(body)
            return first, await asyncio.wait_for(_reply(reader), SECONDS)

    @contextlib.asynccontextmanager
    async def _connected(
        self,
    ) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            yield reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


async def _reply(reader: asyncio.StreamReader) -> Reply:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return Reply(int(head.split()[1]), head, await reader.readexactly(int(length)))
    except (OSError, asyncio.IncompleteReadError):
        return Reply(CLOSED, b"", b"")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    async with application(tmp_path_factory.mktemp("data")) as app:
        connections: set[Connection] = set()
        listener = await asyncio.get_running_loop().create_server(
            lambda: Connection(app.edge, connections), "127.0.0.1", 0
        )
        server = Server(app, listener.sockets[0].getsockname()[1])
        yield server
        assert (await server.sent(LOOK + HOST + b"\r\n")).status == 200
        for connection in list(connections):
            connection.stop()
        listener.close()


async def refused(server: Server, data: bytes, *statuses: int, ends: bool = False) -> Reply:
    """Send bytes, and see that they get one of these statuses and store nothing."""
    before = server.app.stored()

    reply = await server.sent(data, ends=ends)

    assert reply.status in statuses, reply
    assert server.app.stored() == before, "something of a refused request was stored"
    assert not any(leak in reply.body for leak in LEAKS), reply.body
    assert reply.head.count(b"content-type: ") == (reply.status != CLOSED)
    if b"json" in reply.head:
        told = json.loads(reply.body)
        assert told.get("sucsess", False) is False and (told.get("code") or told["error"]["code"])
    return reply


NO_REQUESTS = {
    "garbage": bytes(range(128, 256)) * 10 + b"\r\n\r\n",
    "a greeting of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 200,
    "a greeting of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "HTTP/0.9": b"GET /livez\r\n\r\n",
    "HTTP/3.0": b"GET /livez HTTP/3.0\r\n" + HOST + b"\r\n",
    "no version": b"GET /livez HTTP/\r\n" + HOST + b"\r\n",
    "lines without CR": b"GET /livez HTTP/1.1\nHost: localhost\n\n",
    "no colon": LOOK + HOST + b"nonsense\r\n\r\n",
    "a space before the colon": LOOK + HOST + b"x : 1\r\n\r\n",
    "no name of a header": LOOK + HOST + b": 1\r\n\r\n",
    "a folded header": LOOK + HOST + b"x: 1\r\n 2\r\n\r\n",
    "NUL in a header": LOOK + HOST + b"x: a\x00b\r\n\r\n",
    "NUL in the path": b"GET /liv\x00ez HTTP/1.1\r\n" + HOST + b"\r\n",
    "a space in the path": b"GET /liv ez HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": b"GET  HTTP/1.1\r\n" + HOST + b"\r\n",
    "no method": b" /livez HTTP/1.1\r\n" + HOST + b"\r\n",
    "no host": LOOK + b"\r\n",
    "no host, and others": LOOK + b"x: localhost\r\nX-Host: localhost\r\n\r\n",
    "two hosts": LOOK + HOST + b"Host: evil.example\r\n\r\n",
    "the same host twice": LOOK + HOST + HOST + b"\r\n",
    "a host with a space": LOOK + b"Host: localhost evil.example\r\n\r\n",
    "a host with a path": LOOK + b"Host: localhost/x\r\n\r\n",
    "a host with a user": LOOK + b"Host: me@localhost\r\n\r\n",
    "a host of other letters": LOOK + "Host: löcalhost\r\n\r\n".encode(),
}


@pytest.mark.parametrize("name", NO_REQUESTS)
async def test_what_is_no_request_is_400_or_the_end(server: Server, name: str) -> None:
    await refused(server, NO_REQUESTS[name], 400, CLOSED, ends=True)


@pytest.mark.parametrize(
    "method", ["BREW", "G" * 10_240, "get", "Post", "POSTT", "TRACE", "CONNECT"]
)
@pytest.mark.parametrize("path", ["/livez", "/user/submit_task", "/v1/tasks"])
async def test_an_unknown_method_is_405_501_or_400(server: Server, method: str, path: str) -> None:
    data = f"{method} {path} HTTP/1.1\r\n".encode() + HOST + b"TOKEN\r\n\r\n"

    await refused(server, data, 405, 501, 400)


LENGTHS = ["-1", "+5", "0x5", "5.0", "", " ", "5 5", "5, 6", "1_0", "5;", "\x35\x00", str(2**64)]
LENGTHS += ["9" * 400, "\xb2"]


@pytest.mark.parametrize("length", LENGTHS, ids=lambda text: ascii(text)[:12])
async def test_a_wrong_length_is_400(server: Server, length: str) -> None:
    stated = f"Content-Length: {length}\r\n\r\n".encode("latin-1")

    await refused(server, SUBMIT + HOST + b"TOKEN\r\n" + TYPE + stated + TASK, 400, ends=True)


TWO_LENGTHS = {
    "two that differ": b"Content-Length: 35\r\nContent-Length: 36\r\n",
    "one with chunks": b"Content-Length: 35\r\n" + CHUNKED,
    "one after chunks": CHUNKED + b"Content-Length: 35\r\n",
}


@pytest.mark.parametrize("name", TWO_LENGTHS)
async def test_two_lengths_are_400(server: Server, name: str) -> None:
    data = SUBMIT + HOST + b"TOKEN\r\n" + TYPE + TWO_LENGTHS[name] + b"\r\n" + TASK

    await refused(server, data, 400, ends=True)


CODINGS = {
    "foo": b"Transfer-Encoding: foo\r\n",
    "gzip": b"Transfer-Encoding: gzip\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "chunked, foo": b"Transfer-Encoding: chunked, foo\r\n",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "gzip and chunked": b"Transfer-Encoding: gzip\r\n" + CHUNKED,
    "chunked, chunked": b"Transfer-Encoding: chunked, chunked\r\n",
    "chunked twice": CHUNKED + CHUNKED,
}


@pytest.mark.parametrize("name", CODINGS)
async def test_a_transfer_coding_other_than_chunked_is_400_or_501(
    server: Server, name: str
) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(TASK), TASK)

    data = SUBMIT + HOST + b"TOKEN\r\n" + TYPE + CODINGS[name] + b"\r\n" + body

    await refused(server, data, 400, 501, ends=True)


async def test_chunks_are_for_http_1_1(server: Server) -> None:
    body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(TASK), TASK)
    old = SUBMIT.replace(b"1.1", b"1.0") + HOST + b"TOKEN\r\n" + TYPE + CHUNKED + b"\r\n" + body

    await refused(server, old, 400)


CHUNKS = {
    "zz": b"zz\r\nabc\r\n0\r\n\r\n",
    "-1": b"-1\r\nabc\r\n0\r\n\r\n",
    "0x3": b"0x3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "over all sizes": b"fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "longer than it says": b"2\r\nabc\r\n0\r\n\r\n",
    "a long extension": b"3;" + b"a" * 100_000 + b"\r\nabc\r\n0\r\n\r\n",
    "cut off": b"23\r\n" + TASK[:5],
    "cut off in the size": b"2",
    "no last one": b"%x\r\n%b\r\n" % (len(TASK), TASK),
}


@pytest.mark.parametrize("name", CHUNKS)
async def test_broken_chunks_are_400_or_the_end(server: Server, name: str) -> None:
    data = SUBMIT + HOST + b"TOKEN\r\n" + TYPE + CHUNKED + b"\r\n" + CHUNKS[name]

    await refused(server, data, 400, CLOSED, ends=True)


@pytest.mark.parametrize("path", ["/user/submit_task", "/v1/tasks", "/v1/estimates"])
async def test_a_body_without_a_length_is_400(server: Server, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\n".encode() + HOST + b"TOKEN\r\n" + TYPE

    await refused(server, head + b"\r\n", 400, 411)


@pytest.mark.parametrize("path", ["/user/submit_task", "/v1/tasks", "/v1/estimates"])
@pytest.mark.parametrize("sent", [0, 1, len(TASK) // 2, len(TASK) - 1])
async def test_a_body_that_breaks_off_is_400_or_the_end(
    server: Server, path: str, sent: int
) -> None:
    head = f"POST {path} HTTP/1.1\r\n".encode() + HOST + b"TOKEN\r\n" + TYPE
    data = head + b"Content-Length: %d\r\n\r\n" % len(TASK) + TASK[:sent]

    await refused(server, data, 400, CLOSED, ends=True)


@pytest.mark.parametrize("stated", ["a length", "chunks"])
async def test_a_body_over_the_limit_is_413(server: Server, stated: str) -> None:
    head, size = SUBMIT + HOST + b"TOKEN\r\n" + TYPE, 9 << 20
    if stated == "a length":
        data = head + b"Content-Length: %d\r\n\r\n" % size
    else:
        data = head + CHUNKED + b"\r\n%x\r\n" % size + b" " * size + b"\r\n0\r\n\r\n"

    await refused(server, data, 413)


@pytest.mark.parametrize("host", [b"evil.example", b"evil.example:8900", b"localhost.evil.example"])
@pytest.mark.parametrize("method", [LOOK, SUBMIT])
async def test_the_host_of_another_site_is_421(server: Server, host: bytes, method: bytes) -> None:
    data = method + b"Host: " + host + b"\r\nTOKEN\r\n" + TYPE
    data += b"Content-Length: %d\r\n\r\n%b" % (len(TASK), TASK)

    await refused(server, data, 421)


@pytest.mark.parametrize("value", ["a\x00b", "a\x7fb", "a\x01b"], ids=ascii)
async def test_control_characters_in_a_token_are_400_or_401(server: Server, value: str) -> None:
    token = f"Authorization: Bearer {value}\r\n".encode()

    data = SUBMIT + HOST + token + TYPE + b"Content-Length: %d\r\n\r\n%b" % (len(TASK), TASK)

    await refused(server, data, 400, 401)


async def test_a_task_hidden_behind_a_refused_request_is_not_taken(server: Server) -> None:
    length = b"Content-Length: %d\r\n\r\n" % len(TASK)
    hidden = SUBMIT + HOST + b"TOKEN\r\n" + TYPE + length + TASK
    lies = b"Content-Length: 4\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"

    for head in (SUBMIT + HOST + TYPE + lies, LOOK + HOST + HOST + b"\r\n"):
        await refused(server, head + hidden, 400)


# ---- and what is taken all the same

TAKEN = {
    "as it is": (b"", b"Content-Length: 35\r\n\r\n" + TASK),
    "an old version": (b"1.0", b"Content-Length: 35\r\n\r\n" + TASK),
    "chunks": (
        b"",
        CHUNKED + b"\r\n3\r\n" + TASK[:3] + b"\r\n20\r\n" + TASK[3:] + b"\r\n0\r\n\r\n",
    ),
    "Chunked": (b"", b"TRANSFER-ENCODING: Chunked\r\n\r\n23\r\n" + TASK + b"\r\n0\r\n\r\n"),
    "an extension of chunks": (b"", CHUNKED + b"\r\n23;a=b\r\n" + TASK + b"\r\n0\r\n\r\n"),
    "trailers": (b"", CHUNKED + b"\r\n23\r\n" + TASK + b"\r\n0\r\nx: y\r\n\r\n"),
    "an unknown Expect": (b"", b"Expect: wonders\r\nContent-Length: 35\r\n\r\n" + TASK),
    "an empty Expect": (b"", b"Expect:\r\nContent-Length: 35\r\n\r\n" + TASK),
    "two of Expect": (b"", b"Expect: a\r\nExpect: b\r\nContent-Length: 35\r\n\r\n" + TASK),
    "a header twice": (b"", b"Accept: a\r\nAccept: b\r\nContent-Length: 35\r\n\r\n" + TASK),
}


@pytest.mark.parametrize("name", TAKEN)
async def test_odd_requests_that_are_right_are_taken(server: Server, name: str) -> None:
    version, rest = TAKEN[name]
    line = SUBMIT.replace(b"1.1", version) if version else SUBMIT

    reply = await server.sent(line + HOST + b"TOKEN\r\n" + TYPE + rest)

    assert reply.status == 200, reply
    assert json.loads(reply.body)["sucsess"] is True


async def test_who_asks_whether_to_go_on_is_told_to(server: Server) -> None:
    asks = b"Expect: 100-continue\r\nContent-Length: 35\r\n\r\n"

    first, then = await server.told_to_go_on(SUBMIT + HOST + b"TOKEN\r\n" + TYPE + asks, TASK)

    assert first.startswith(b"HTTP/1.1 100 ")
    assert then.status == 200 and json.loads(then.body)["sucsess"] is True


async def test_http_1_0_needs_no_host(server: Server) -> None:
    assert (await server.sent(b"GET /livez HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.parametrize("host", [b"", b"localhost:8900", b"[::1]:8900", b"127.0.0.1"])
async def test_hosts_of_this_machine_are_taken(server: Server, host: bytes) -> None:
    assert (await server.sent(LOOK + b"Host: " + host + b"\r\n\r\n")).status == 200
