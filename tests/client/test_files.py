from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from pathlib import Path

import pytest

from task_server.client.aio import AsyncTransport
from task_server.errors import NotFound, RequestError, ServerUnreachable
from tests.client.raw_server import OK, Link, Talk, raw_server, says

FULL = Path("/dev/full")
TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 20\r\n\r\n" + b'{"code":"too_large"}'
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 20\r\n\r\n" + b'{"code":"not_found"}'
LARGE = 32 << 20
"""Bytes; more than what the sockets of a connection hold."""


async def test_files_are_sent_and_received_whole(tmp_path: Path) -> None:
    file, copy, empty = tmp_path / "file", tmp_path / "copy", tmp_path / "empty"
    file.write_bytes(os.urandom(3 << 20))
    empty.touch()

    async def talk(link: Link) -> None:
        while True:
            content = (await link.hear()).partition(b"\r\n\r\n")[2] or file.read_bytes()
            await link.say(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content
            )

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        reply = await transport.upload("/up", file, {"Content-Type": "text/plain"})
        whole = await transport.download("/down", copy)
        content = copy.read_bytes()
        await transport.upload("/up", empty)
        file.write_bytes(b"")
        nothing = await transport.download("/down", copy)

    assert copy.read_bytes() == b""
    assert (whole, nothing) == (hashlib.sha256(content).hexdigest(), hashlib.sha256().hexdigest())
    assert reply.body == content
    assert b"Content-Type: text/plain\r\nContent-Length: 3145728\r\n" in server.requests[0]
    assert b"Content-Type: application/octet-stream\r\nContent-Length: 0\r\n" in server.requests[2]
    assert server.connections == 1


async def refuse_unread(link: Link) -> None:
    await link.hear_head()
    await link.say(TOO_LARGE)
    await asyncio.Event().wait()


async def refuse_and_hang_up(link: Link) -> None:
    await link.hear_head()
    await link.say(TOO_LARGE)
    await link.reader.read(1)
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("talk", [refuse_unread, refuse_and_hang_up])
async def test_a_reply_that_comes_before_a_body_is_sent_is_the_reply(
    talk: Talk, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        uploaded = await transport.upload("/x", file)
        put = await transport.request("PUT", "/x", bytes(LARGE))

    assert (uploaded.status, uploaded.body) == (413, b'{"code":"too_large"}')
    assert put == uploaded
    assert server.connections == 2


async def test_an_upload_that_nobody_takes_is_given_up(tmp_path: Path) -> None:
    async def talk(link: Link) -> None:
        await link.hear_head()
        await asyncio.Event().wait()

    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable, match="timed out"):
            await transport.upload("/x", file, silence=0.1)


async def test_an_upload_whose_server_dies_is_lost(tmp_path: Path) -> None:
    async def talk(link: Link) -> None:
        await link.hear_head()
        await link.reader.readexactly(1 << 20)
        link.reset()

    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable):
            await transport.upload("/x", file)


async def test_a_file_that_cannot_be_read_is_no_lost_server(tmp_path: Path) -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        with pytest.raises(FileNotFoundError):
            await transport.upload("/x", tmp_path / "none")


async def test_a_file_that_became_shorter_is_not_sent_as_a_whole_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGE))

    async def talk(link: Link) -> None:
        await link.hear_head()
        os.truncate(file, 1 << 20)
        await link.reader.read()

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(OSError, match="became shorter"):
            await transport.upload("/x", file)


async def test_a_download_is_read_as_fast_as_it_is_written(tmp_path: Path) -> None:
    pipe, sent = tmp_path / "pipe", 0
    os.mkfifo(pipe)

    async def talk(link: Link) -> None:
        nonlocal sent
        await link.hear()
        await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
        while sent < LARGE:
            await link.say(bytes(1 << 18))
            sent += 1 << 18

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        loading = asyncio.ensure_future(transport.download("/x", pipe))
        file = await asyncio.to_thread(pipe.open, "rb")
        await asyncio.sleep(0.3)
        sent_ahead = sent
        with file:
            received = await asyncio.to_thread(lambda: len(file.read()))
        await loading

    assert received == LARGE
    assert sent_ahead < LARGE / 2


async def test_a_refused_download_is_its_error(tmp_path: Path) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: /y\r\nContent-Length: 0\r\n\r\n"

    async with (
        raw_server(says(NOT_FOUND, moved, OK)) as server,
        AsyncTransport(server.url) as transport,
    ):
        with pytest.raises(NotFound):
            await transport.download("/x", tmp_path / "copy")
        with pytest.raises(RequestError, match="status 302"):
            await transport.download("/x", tmp_path / "copy")
        await transport.download("/x", tmp_path / "copy")

    assert server.connections == 1


@pytest.mark.skipif(not FULL.exists(), reason="no device here is always full")
async def test_a_full_disk_is_not_taken_for_a_lost_server() -> None:
    async with raw_server() as server, AsyncTransport(server.url) as transport:
        with pytest.raises(OSError) as caught:
            await transport.download("/x", FULL)

    assert caught.value.errno == errno.ENOSPC


async def test_a_download_may_last_but_not_fall_silent(tmp_path: Path) -> None:
    has_said_all = False

    async def talk(link: Link) -> None:
        nonlocal has_said_all
        await link.hear()
        await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        for _ in range(40):
            await link.say(b"x")
            await asyncio.sleep(0.01)
        has_said_all = True
        await asyncio.Event().wait()

    async with raw_server(talk) as server, AsyncTransport(server.url) as transport:
        with pytest.raises(ServerUnreachable, match="timed out"):
            await transport.download("/x", tmp_path / "copy", silence=0.2)

    assert has_said_all
