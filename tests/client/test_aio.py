from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from task_server.client import pool
from task_server.client.aio import AsyncTransport
from task_server.errors import ServerUnreachable, TaskServerError
from tests.client.raw_server import OK, Link, Talk, raw_server, says, silent, until

# ---- what is sent


async def test_a_request_says_what_it_is_to() -> None:
    async with (
        raw_server() as server,
        AsyncTransport(server.url + "/tasks/", "secret") as transport,
    ):
        await transport.request("POST", "/v1/x?wait=1", b"{}", {"Content-Type": "text/plain"})
        await transport.request("POST", "/y")
        await transport.request("GET", "/z")

    rest = f"HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept-Encoding: identity\r\n".encode()
    rest += b"Authorization: Bearer secret\r\n"
    assert server.requests == [
        b"POST /tasks/v1/x?wait=1 %bContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}" % rest,
        b"POST /tasks/y %bContent-Length: 0\r\n\r\n" % rest,
        b"GET /tasks/z %b\r\n" % rest,
    ]


@pytest.mark.parametrize(
    "headers",
    [{"A": "b\r\nC: d"}, {"A": "b\nC: d"}, {"A\r\nC": "d"}, {"A": "\x00"}, {"A": "\u20ac"}],
)
async def test_a_value_cannot_add_a_header(headers: dict[str, str]) -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ValueError, match="header 'A"):
            await transport.request("GET", "/x", headers=headers)

    assert server.connections == 0


async def test_what_may_not_be_in_a_path_is_quoted() -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        await transport.request("GET", "/a b HTTP/1.1\r\nX: \u00e4?c=%20d")

    assert server.requests[0].startswith(
        b"GET /a%20b%20HTTP/1.1%0D%0AX:%20%C3%A4?c=%20d HTTP/1.1\r\n"
    )


def test_a_token_cannot_add_a_header() -> None:
    with pytest.raises(TaskServerError, match="token"):
        AsyncTransport("http://127.0.0.1:1", "secret\r\nX: y")


async def test_a_server_may_have_an_address_of_version_6() -> None:
    try:
        async with raw_server(host="::1") as server, AsyncTransport(server.url) as transport:
            reply = await transport.request("GET", "/x")
    except OSError:
        pytest.skip("no IPv6 here")

    assert reply.body == b"fine"
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


async def test_the_addresses_of_a_host_are_tried_in_turn() -> None:
    async with (
        raw_server() as server,
        AsyncTransport(f"http://localhost:{server.port}") as transport,
    ):
        reply = await transport.request("GET", "/x")

    assert reply.body == b"fine"


# ---- TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "certificate.pem"
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(pem, form, serialization.NoEncryption())
    file.write_bytes(made.public_bytes(pem) + text)
    return file


async def test_a_server_behind_tls_is_known_by_its_certificate(
    certificate: Path, tmp_path: Path
) -> None:
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(certificate)
    ours = ssl.create_default_context(cafile=certificate)
    file, copy = tmp_path / "file", tmp_path / "copy"
    file.write_bytes(os.urandom(3 << 20))

    async def talk(link: Link) -> None:
        await link.hear()
        await link.say(OK)
        content = (await link.hear()).partition(b"\r\n\r\n")[2]
        await link.say(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")
        await link.hear()
        await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    async with raw_server(talk, tls=theirs) as server:
        async with AsyncTransport(server.url, tls=ours) as transport:
            reply = await transport.request("GET", "/x")
            await transport.upload("/up", file)
            await transport.download("/down", copy)
        async with AsyncTransport(server.url) as transport:
            with pytest.raises(ServerUnreachable, match="certificate"):
                await transport.request("GET", "/x")

    assert reply.body == b"fine"
    assert copy.read_bytes() == file.read_bytes()
    assert server.connections == 1


# ---- what comes back


@pytest.mark.parametrize(
    "said",
    [
        OK,
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nf\r\n3\r\nine\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\nfine",
    ],
    ids=["length", "interim", "chunks", "until the end"],
)
async def test_a_reply_is_read_whole_however_it_is_sent(said: bytes, tmp_path: Path) -> None:
    async def talk(link: Link) -> None:
        await link.hear()
        await link.say(said)

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        reply = await transport.request("GET", "/x")
        await transport.download("/x", tmp_path / "copy")

    assert (reply.status, reply.body) == (200, b"fine")
    assert (tmp_path / "copy").read_bytes() == b"fine"


async def test_a_reply_to_head_has_no_body() -> None:
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"

    async with raw_server(says(said, OK)) as server, AsyncTransport(server.url) as transport:
        first = await transport.request("HEAD", "/x")
        second = await transport.request("GET", "/x")

    assert (first.headers, first.body) == ({"content-length": "10"}, b"")
    assert second.body == b"fine"
    assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "speaks no HTTP"),
        (OK[:-1], "closed the connection"),
        (OK[:20], "closed the connection"),
        (b"", "without a reply"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "longer than 64 KiB"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "length of 'x'"),
    ],
)
async def test_what_is_no_whole_reply_is_a_lost_server(
    said: bytes, reason: str, tmp_path: Path
) -> None:
    async with raw_server(says(said)) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable, match=f"lost the server at http.*{reason}"):
            await transport.request("GET", "/x")

    async with raw_server(says(said)) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable, match=reason):
            await transport.download("/x", tmp_path / "copy")


async def test_nobody_there_is_a_lost_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    async with AsyncTransport(url) as transport:
        with pytest.raises(ServerUnreachable, match="no server at"):
            await transport.request("GET", "/x")


async def test_a_host_without_an_address_is_a_lost_server() -> None:
    async with AsyncTransport("http://nowhere.invalid") as transport:
        with pytest.raises(ServerUnreachable):
            await transport.request("GET", "/x", timeout=20)


# ---- time-outs and giving up


async def drip(link: Link) -> None:
    await link.hear()
    await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        await link.say(b"x")
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("talk", [silent, drip])
async def test_a_request_has_so_long_for_its_whole_reply(talk: Talk) -> None:
    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable, match="timed out"):
            await transport.request("GET", "/x", timeout=0.1)


async def test_a_host_that_says_nothing_to_a_new_connection_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pool, "CONNECT_SECONDS", 0.05)
    with socket.socket() as busy, socket.socket() as first, socket.socket() as second:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)  # a full queue: the kernel drops what else knocks
        for queued in (first, second):
            queued.setblocking(False)
            queued.connect_ex(busy.getsockname())
        async with AsyncTransport(f"http://127.0.0.1:{busy.getsockname()[1]}") as transport:
            with pytest.raises(ServerUnreachable, match="timed out"):
                await transport.request("GET", "/x")
            with pytest.raises(ServerUnreachable, match="timed out"):
                await transport.download("/x", tmp_path / "copy")


async def test_giving_up_closes_the_connection() -> None:
    has_ended = asyncio.Event()

    async def talk(link: Link) -> None:
        await link.hear()
        if not await link.reader.read():
            has_ended.set()

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        asked = asyncio.ensure_future(transport.request("GET", "/x"))
        await until(lambda: len(server.requests) == 1)
        asked.cancel()
        async with asyncio.timeout(5):
            await has_ended.wait()

    assert asked.cancelled()
