from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from task_server.client.client import Client
from task_server.client.http import HttpTransport
from task_server.client.requests import Request
from task_server.errors import ServerUnreachable, TaskServerError

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Does what the server's `behaviour` says."""

    protocol_version = "HTTP/1.1"
    server: Server

    def handle_request(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.received = self.rfile.read(length)
        self.server.seen.append((self.client_address[1], self.path, self.received))
        self.server.behaviour(self)

    do_GET = do_POST = do_PUT = handle_request

    def say(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def begin_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    behaviour: Behaviour
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[int, str, bytes]] = []
        self.released = threading.Event()
        self.behaviour = lambda handler: handler.say(200, b"fine")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that leave are what is tested


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def transport(server: Server) -> Iterator[HttpTransport]:
    transport = HttpTransport(server.url, "secret")
    yield transport
    transport.close()


def cut(handler: Handler) -> None:
    handler.say(200, b"half", length=8)
    handler.hang_up()


def keep_silent(handler: Handler) -> None:
    handler.server.released.wait(10)


def get(path: str = "/x") -> Request:
    return Request("GET", path)


def test_a_connection_is_kept(server: Server, transport: HttpTransport) -> None:
    for _ in range(3):
        assert transport.request(get(), timeout=5).body == b"fine"

    assert len({port for port, *_ in server.seen}) == 1


def test_a_connection_that_the_server_closed_is_replaced(
    server: Server, transport: HttpTransport
) -> None:
    def answer_and_leave(handler: Handler) -> None:
        handler.say(200, b"fine")
        handler.hang_up()

    server.behaviour = answer_and_leave

    replies = [transport.request(Request("POST", "/x", b"{}"), timeout=5) for _ in range(3)]

    assert [reply.status for reply in replies] == [200, 200, 200]
    assert len({port for port, *_ in server.seen}) == 3


def test_a_server_for_http_is_told_from_none_at_once(server: Server) -> None:
    client = Client(server.url.replace("http:", "https:"), "secret")
    began = time.monotonic()

    with pytest.raises(ServerUnreachable, match=f"does not speak TLS; name it {server.url}"):
        client.call("math:sqrt", 2)

    assert time.monotonic() - began < 5.0, "it was not tried again and again"


def test_a_host_that_nobody_knows_is_named() -> None:
    transport = HttpTransport("http://nobody.invalid:8900", "secret")

    with pytest.raises(ServerUnreachable, match=r"no host nobody\.invalid is known"):
        transport.request(get(), timeout=5)


def test_a_fresh_connection_that_breaks_is_an_error(
    server: Server, transport: HttpTransport
) -> None:
    server.behaviour = Handler.hang_up

    with pytest.raises(ServerUnreachable, match="lost the server"):
        transport.request(get(), timeout=5)

    assert len(server.seen) == 1


def test_a_body_that_is_cut_is_an_error(server: Server, transport: HttpTransport) -> None:
    server.behaviour = cut

    with pytest.raises(ServerUnreachable):
        transport.request(get(), timeout=5)
    with pytest.raises(ServerUnreachable), transport.stream(get(), timeout=5) as stream:
        list(stream)


def test_chunks_that_are_cut_are_an_error_after_what_came(
    server: Server, transport: HttpTransport
) -> None:
    def cut_chunks(handler: Handler) -> None:
        handler.begin_chunks()
        handler.chunk(b"one\n")
        handler.hang_up()

    server.behaviour = cut_chunks
    pieces = []

    with pytest.raises(ServerUnreachable), transport.stream(get(), timeout=5) as stream:
        for piece in stream:
            pieces.append(piece)  # noqa: PERF402  (what came before the error counts)

    assert pieces == [b"one\n"]


def test_a_stream_that_was_read_to_its_end_leaves_its_connection(
    server: Server, transport: HttpTransport
) -> None:
    def chunks(handler: Handler) -> None:
        handler.begin_chunks()
        handler.chunk(b"one\n")
        handler.chunk(b"two\n")
        handler.chunk(b"")

    server.behaviour = chunks

    for _ in range(2):
        with transport.stream(get(), timeout=5) as stream:
            assert b"".join(stream) == b"one\ntwo\n"

    assert len({port for port, *_ in server.seen}) == 1


def test_a_stream_that_was_left_early_closes_its_connection(
    server: Server, transport: HttpTransport
) -> None:
    server.behaviour = lambda handler: handler.say(200, b"x" * 1_000_000)

    for _ in range(2):
        with transport.stream(get(), timeout=5) as stream:
            next(iter(stream))

    assert len({port for port, *_ in server.seen}) == 2


def test_silence_ends_at_the_timeout(server: Server, transport: HttpTransport) -> None:
    server.behaviour = keep_silent

    with pytest.raises(ServerUnreachable, match="timed out"):
        transport.request(get(), timeout=0.05)

    server.released.set()


def test_silence_on_a_kept_connection_ends_at_the_timeout_too(
    server: Server, transport: HttpTransport
) -> None:
    transport.request(get(), timeout=5)
    server.behaviour = keep_silent

    with pytest.raises(ServerUnreachable, match="timed out"):
        transport.request(get(), timeout=0.05)

    server.released.set()
    assert len(server.seen) == 2


REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789"


@pytest.mark.parametrize("length", range(len(REPLY)))
def test_a_reply_that_is_cut_anywhere_is_an_error(
    server: Server, transport: HttpTransport, length: int
) -> None:
    def cut_early(handler: Handler) -> None:
        handler.wfile.write(REPLY[:length])
        handler.hang_up()

    transport.request(get(), timeout=5)
    server.behaviour = cut_early

    with pytest.raises(ServerUnreachable):
        transport.request(get(), timeout=5)
    with pytest.raises(ServerUnreachable), transport.stream(get(), timeout=5) as stream:
        list(stream)


def test_nobody_there_says_how_to_start_a_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"

    with pytest.raises(ServerUnreachable, match="task-server up"):
        HttpTransport(url).request(get(), timeout=5)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8900", "ftp://x", "http://", "http://x:port", "http://[::1"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(TaskServerError, match="no server's URL"):
        HttpTransport(url)


def test_a_url_may_have_a_path(server: Server) -> None:
    transport = HttpTransport(server.url + "/tasks/")

    transport.request(get("/v1/x"), timeout=5)
    transport.close()

    assert server.seen[0][1] == "/tasks/v1/x"


def test_a_file_is_sent_whole(server: Server, transport: HttpTransport, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"0123456789" * 100_000)

    transport.upload(Request("PUT", "/v1/blobs/x"), file, timeout=5)

    assert server.seen[0][2] == file.read_bytes()


def test_many_threads_share_a_transport(server: Server, transport: HttpTransport) -> None:
    server.behaviour = lambda handler: handler.say(200, handler.path.encode())
    wrong = []

    def ask(number: int) -> None:
        for turn in range(20):
            path = f"/{number}/{turn}"
            if transport.request(get(path), timeout=5).body != path.encode():
                wrong.append(path)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
