"""Large arguments and answers through real processes, kept in a directory or in S3."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from bench.large import Target, measure
from task_server.client import requests
from task_server.client.client import Client
from task_server.store.blobs import name_of
from tests.e2e.faulty_proxy import NOTHING, Asked, Fault, faulty_proxy
from tests.e2e.processes import COMMAND, Place, figures, peak_bytes, place
from tests.store.s3_server import BUCKET, S3Server, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

MIB = 2**20
DATA = b"".join(b"%015d\n" % number for number in range(5 * MIB // 16))


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["directory", "s3"])
def there(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A server with either store of blobs."""
    if request.param == "directory":
        with place(tmp_path_factory, "--lease-seconds", "600") as found:
            found.serve()
            yield found
        return
    with in_bucket(tmp_path_factory, request.getfixturevalue("s3")) as found:
        yield found


@contextmanager
def in_bucket(factory: pytest.TempPathFactory, s3: S3Server, endpoint: str = "") -> Iterator[Place]:
    """A server with its blobs in a bucket."""
    options = ("--blobs", f"s3://{BUCKET}/{uuid4()}", "--lease-seconds", "600")
    with place(factory, *options) as found:
        found.serve(s3.environ(AWS_ENDPOINT_URL=endpoint or s3.url))
        yield found
        # Nothing of a blob may lie where another server could not see it.
        assert not (found.data / "blobs").exists()


def backwards(data: bytes) -> bytes:
    return data[::-1]


def test_large_arguments_and_answers_come_back_equal(there: Place) -> None:
    there.worker()

    with there.client() as client:
        assert client.call(backwards, DATA) == DATA[::-1]
        assert client.call("builtins:list", [DATA.decode()]) == [DATA.decode()]
        assert client.call(len, client.put(DATA)) == len(DATA)


def test_a_large_answer_is_read_on_every_way(there: Place) -> None:
    there.worker()
    token = there.token("user", "reader")
    text = DATA.decode()

    with Client(there.url, token) as client:
        future = client.submit("builtins:str", text)
        assert future.result(timeout=60) == text

    plain = json.loads(fetch(f"{there.url}/user/request_answer/{future.id}", token))
    assert plain == {"sucsess": True, "success": True, "answer": text}
    assert json.loads(fetch(f"{there.url}/v1/tasks/{future.id}/answer", token)) == text


def test_many_large_answers_at_once_take_little_memory(there: Place) -> None:
    assert there.server is not None
    target = Target(
        url=there.url,
        process=there.server.pid,
        user=there.token("user", "reader"),
        worker=there.token("worker", "loader"),
    )

    peaks = measure(target, answers=12, mib=64)

    assert peaks.downloads < 315, peaks


def test_a_store_that_fails_is_told_and_reads_that_were_begun_are_cut(
    tmp_path_factory: pytest.TempPathFactory, s3: S3Server
) -> None:
    data = DATA * 4
    name = name_of(data)
    with faulty_proxy(s3.url) as proxy, in_bucket(tmp_path_factory, s3, proxy.url) as there:
        token = there.token("worker")
        connection = http.client.HTTPConnection(urlsplit(there.url).netloc, timeout=60)
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("PUT", f"/v1/blobs/{name}", data, headers)
        assert connection.getresponse().read() and connection.sock is not None

        def break_off(asked: Asked) -> Fault:
            proxy.decide = lambda asked: Fault(loses_request=True)
            return Fault(cut_after=10 * MIB)

        proxy.decide = break_off
        connection.request("GET", f"/v1/blobs/{name}", headers=headers)
        reply = connection.getresponse()
        assert reply.status == 200
        with pytest.raises(http.client.IncompleteRead):
            reply.read()
        connection.close()

        connection.request("GET", f"/v1/blobs/{name}", headers=headers)
        reply = connection.getresponse()
        told = json.loads(reply.read())
        assert reply.status == 503 and "store of blobs failed: HTTP error" in told["detail"]
        assert "127.0.0.1" not in told["detail"]

        proxy.decide = lambda asked: NOTHING
        connection.request("GET", f"/v1/blobs/{name}", headers=headers)
        assert connection.getresponse().read() == data
        connection.close()
        assert there.server is not None
        assert "Traceback" not in there.server.output()
        assert "a reply is cut off" in there.server.output()


def test_a_bucket_that_cannot_be_used_ends_the_start(
    tmp_path_factory: pytest.TempPathFactory, s3: S3Server
) -> None:
    with place(tmp_path_factory) as there:
        command = [*COMMAND, "serve", "--port", "0", "--data", str(there.data)]
        server = there.run([*command, "--blobs", "s3://no-such-bucket"], "server", s3.environ())

        assert server.popen.wait(30) == 1

        assert "s3://no-such-bucket: NoSuchBucket" in server.output()
        assert "Traceback" not in server.output()
        assert not (there.data / "task-server.db").exists()


def fetch(url: str, token: str) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return bytes(reply.read())


def test_large_requests_all_at_once_take_little_memory_and_none_is_lost(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    body = b'{"function":"builtins:len","args":["%b"]}' % (b"x" * 60 * MIB)
    with place(tmp_path_factory) as here:
        server = here.serve()
        token = here.token("user")

        def submit(_: int) -> tuple[int, str | None]:
            at = urlsplit(here.url)
            connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=120)
            with closing(connection):
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                connection.request("POST", "/v1/tasks", body, headers)
                reply = connection.getresponse()
                reply.read()
                return reply.status, reply.getheader("Retry-After")

        with ThreadPoolExecutor(8) as threads:
            replies = list(threads.map(submit, range(8)))

        figures("replies %s, at most %d MiB", replies, peak_bytes(server) // MIB)
        accepted = [status for status, _ in replies if status == 202]
        assert accepted and all(
            status == 202 or (status, bool(later)) == (503, True) for status, later in replies
        )
        assert peak_bytes(server) < 700 * MIB
        with Client(here.url, token) as client:
            reply = client.session.send(requests.list_tasks(limit=100))
            assert len(json.loads(reply.body)["tasks"]) == len(accepted)
