from __future__ import annotations

import pytest

from task_server.client.replies import HEAD_BYTES, BadReply, ReplyReader

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"4\r\n0123\r\n6;name=value\r\n456789\r\n0\r\nTrailer: x\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + PLAIN
HEAD = b"HTTP/1.1 200 OK\r\n"


def read(*pieces: bytes, bodiless: bool = False) -> ReplyReader:
    reply = ReplyReader(bodiless=bodiless)
    for piece in pieces:
        reply.feed(piece)
    return reply


def body(reply: ReplyReader) -> bytes:
    return b"".join(reply.pieces)


@pytest.mark.parametrize("said", [PLAIN, CHUNKED, INTERIM], ids=["length", "chunks", "interim"])
def test_a_reply_may_be_cut_anywhere_on_its_way(said: bytes) -> None:
    cuts = [(said[:at], said[at:]) for at in range(1, len(said))]

    for pieces in [(said,), *cuts, tuple(bytes([byte]) for byte in said)]:
        reply = read(*pieces)

        assert (reply.status, body(reply)) == (200, b"0123456789")
        assert reply.is_whole
        assert not reply.is_last


@pytest.mark.parametrize("said", [PLAIN, CHUNKED, INTERIM], ids=["length", "chunks", "interim"])
def test_a_reply_that_ends_early_is_not_whole(said: bytes) -> None:
    for length in range(len(said)):
        reply = read(said[:length])
        reply.end()

        assert not reply.is_whole


def test_names_of_headers_are_in_lower_case_and_those_named_twice_are_a_list() -> None:
    reply = read(HEAD + b"Content-Length:0\r\nX-One:  a b \r\nVary: x\r\nVARY: y\r\nEmpty:\r\n\r\n")

    assert reply.headers == {"content-length": "0", "x-one": "a b", "vary": "x, y", "empty": ""}
    assert reply.is_whole


def test_a_reply_without_a_length_ends_with_its_connection() -> None:
    reply = read(HEAD + b"\r\n", b"all ", b"of it")

    assert not reply.is_whole
    reply.end()

    assert body(reply) == b"all of it"
    assert reply.is_whole
    assert reply.is_last


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
def test_some_replies_have_no_body(status: bytes) -> None:
    reply = read(b"HTTP/1.1 " + status + b"\r\nETag: x\r\n\r\n")

    assert reply.is_whole
    assert not reply.is_last


def test_the_reply_to_head_has_the_length_of_another_and_no_body() -> None:
    reply = read(HEAD + b"Content-Length: 10\r\n\r\n", bodiless=True)

    assert reply.is_whole
    assert body(reply) == b""


@pytest.mark.parametrize(
    ("head", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\n", False),
        (b"HTTP/1.1 200\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\n", False),
    ],
)
def test_the_head_says_whether_another_reply_may_follow(head: bytes, is_last: bool) -> None:
    said = head + b"Content-Length: 2\r\n\r\nok"

    assert read(said).is_last is is_last


@pytest.mark.parametrize("said", [PLAIN, CHUNKED])
def test_bytes_after_a_reply_make_it_the_last(said: bytes) -> None:
    assert read(said + b"H").is_last
    assert read(said, b"H").is_last


def test_a_length_beside_chunks_is_not_believed() -> None:
    said = CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n", 1)

    reply = read(said)

    assert body(reply) == b"0123456789"
    assert reply.is_last


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 99 What\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"<html>",
    ],
)
def test_what_is_no_http_is_told_so_with_what_it_said(said: bytes) -> None:
    with pytest.raises(BadReply, match=r"speaks no HTTP/1\.1; it said '"):
        read(said)


@pytest.mark.parametrize(
    "header",
    [
        b"no colon",
        b": no name",
        b"space : x",
        b" folded: x",
        b"A: x\n B: y",
        b"Content-Length: -1",
        b"Content-Length: +1",
        b"Content-Length: 0x1",
        b"Content-Length: 1_0",
        b"Content-Length: ",
        b"Content-Length: \xb2",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Content-Length: " + b"9" * 400,
        b"Transfer-Encoding: gzip, chunked",
    ],
)
def test_a_head_that_can_be_misread_is_refused(header: bytes) -> None:
    with pytest.raises(BadReply):
        read(HEAD + header + b"\r\n\r\n")


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n", b"-1\r\n", b"0x1\r\n", b"\r\n", b"1 1\r\n", b"1\r\nab\r\n", b"f" * 99 + b"\r\n"],
)
def test_chunks_that_can_be_misread_are_refused(chunks: bytes) -> None:
    with pytest.raises(BadReply):
        read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks)


def test_another_protocol_is_not_switched_to() -> None:
    with pytest.raises(BadReply, match="another protocol"):
        read(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (HEAD, b"X-Header: " + b"x" * 1000 + b"\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: " + b"x" * 1000 + b"\r\n"),
    ],
    ids=["head", "interim", "extension", "trailers"],
)
def test_what_goes_round_a_body_has_an_end(begun: bytes, more: bytes) -> None:
    reply = read(begun) if begun else ReplyReader(bodiless=False)

    with pytest.raises(BadReply):
        for _ in range(3 * HEAD_BYTES // len(more)):
            reply.feed(more)
