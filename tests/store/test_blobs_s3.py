"""Blobs in S3, where the network and the bucket can fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from task_server.errors import Invalid, NotFound, TaskServerError, Unavailable
from task_server.settings import ServerSettings
from task_server.store.blobs import Blobs, name_of, open_blobs
from tests.e2e.faulty_proxy import NOTHING, Asked, Fault, FaultyProxy, faulty_proxy
from tests.server.asgi import application
from tests.store.s3_server import BUCKET, S3Server, s3_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(90)]

MIB = 2**20
DATA = b"".join(b"%015d\n" % number for number in range(12 * MIB // 16))
"""More than two parts of an upload."""
LOSE = Fault(loses_request=True)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture
def proxy(s3: S3Server) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3.url) as proxy:
        yield proxy


@pytest.fixture
def settings(
    proxy: FaultyProxy, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ServerSettings:
    """A prefix of its own in the bucket, reached through the proxy and with little patience."""
    for name, value in s3.environ(AWS_ENDPOINT_URL=proxy.url).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("task_server.store.blobs.s3.RETRIES", 2)
    return ServerSettings(data=tmp_path, blobs=f"s3://{BUCKET}/{uuid4()}")


async def sent(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 65536):
        yield data[start : start + 65536]


async def put(blobs: Blobs, data: bytes) -> str:
    await blobs.put(name_of(data), sent(data))
    return name_of(data)


def losing(matches: Callable[[Asked], bool]) -> Callable[[Asked], Fault]:
    """Lose the requests that match."""
    return lambda asked: LOSE if matches(asked) else NOTHING


# ---- at the start


async def test_a_missing_bucket_is_told_at_the_start(settings: ServerSettings) -> None:
    missing = ServerSettings(data=settings.data, blobs="s3://no-such-bucket/below")

    with pytest.raises(TaskServerError, match=r"s3://no-such-bucket/below: NoSuchBucket.*AWS_"):
        await open_blobs(missing)


async def test_credentials_that_are_not_taken_are_told_at_the_start(
    settings: ServerSettings, s3: S3Server
) -> None:
    s3.ask("POST", "/moto-api/reset-auth", b"0")  # from now on they are looked at
    try:
        with pytest.raises(TaskServerError, match=r"InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"):
            await open_blobs(settings)
    finally:
        s3.ask("POST", "/moto-api/reset-auth", b"inf")


async def test_a_store_that_is_not_there_is_told_at_the_start(
    settings: ServerSettings, proxy: FaultyProxy
) -> None:
    proxy.decide = lambda asked: LOSE

    with pytest.raises(TaskServerError, match=r"HTTP error.*AWS_ENDPOINT_URL"):
        await open_blobs(settings)


async def test_an_endpoint_that_is_no_url_is_told_at_the_start(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")

    with pytest.raises(TaskServerError, match=r"AWS_ENDPOINT_URL=127.0.0.1:9000 is no URL"):
        await open_blobs(settings)


async def test_without_obstore_the_extra_is_named(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "task_server.store.blobs.s3", raising=False)
    monkeypatch.setitem(sys.modules, "obstore", None)

    with pytest.raises(TaskServerError, match=r"pip install 'task-server\[s3\]'"):
        await open_blobs(settings)


# ---- at work


async def test_a_lost_request_is_sent_again(settings: ServerSettings, proxy: FaultyProxy) -> None:
    blobs = await open_blobs(settings)

    for method in ("POST", "PUT"):
        proxy.once("", LOSE, method=method)
        await put(blobs, method.encode() + DATA)
    proxy.once("", LOSE, method="HEAD")

    assert await blobs.size(name_of(b"PUT" + DATA)) == len(DATA) + 3
    assert proxy.faults == 3


async def test_a_cut_download_goes_on_where_it_was(
    settings: ServerSettings, proxy: FaultyProxy
) -> None:
    blobs = await open_blobs(settings)
    name = await put(blobs, DATA)

    proxy.once(name[7:], Fault(cut_after=5 * MIB), method="GET")

    assert await blobs.read(name) == DATA
    assert proxy.faults == 1


async def test_an_upload_that_cannot_go_on_is_aborted(
    settings: ServerSettings, proxy: FaultyProxy, s3: S3Server
) -> None:
    blobs = await open_blobs(settings)
    proxy.decide = losing(lambda asked: "partNumber=2" in asked.path)

    with pytest.raises(Unavailable, match="store of blobs failed"):
        await put(blobs, DATA)

    assert s3.unfinished_uploads() == 0
    assert await blobs.size(name_of(DATA)) is None


async def test_a_store_that_fails_is_unavailable_and_says_why(
    settings: ServerSettings, proxy: FaultyProxy
) -> None:
    blobs = await open_blobs(settings)
    name = await put(blobs, DATA)
    proxy.decide = lambda asked: LOSE

    for call in (blobs.size, blobs.open, blobs.read, blobs.delete):
        with pytest.raises(Unavailable, match="HTTP error"):
            await call(name)
    with pytest.raises(Unavailable):
        await blobs.put_bytes(b"content")
    with pytest.raises(Unavailable):
        _ = [blob async for blob in blobs.listed()]


async def test_a_bucket_that_was_taken_away_is_not_a_blob_that_is_not_there(
    settings: ServerSettings, s3: S3Server
) -> None:
    s3.ask("PUT", "/for-a-while")
    settings = ServerSettings(data=settings.data, blobs="s3://for-a-while")
    blobs = await open_blobs(settings)
    with pytest.raises(NotFound):
        await blobs.open(name_of(b"content"))

    s3.ask("DELETE", "/for-a-while")

    with pytest.raises(Unavailable, match="NoSuchBucket"):
        await blobs.open(name_of(b"content"))


async def test_objects_that_are_no_blobs_are_not_listed(
    settings: ServerSettings, s3: S3Server
) -> None:
    blobs = await open_blobs(settings)
    assert settings.blobs is not None
    below = settings.blobs.removeprefix("s3:/")
    s3.ask("PUT", f"{below}/README", b"not a blob")
    s3.ask("PUT", f"{below}/deeper/{'0' * 64}", b"neither")

    name = await blobs.put_bytes(b"content")

    assert [blob.name async for blob in blobs.listed()] == [name]


async def test_only_so_many_uploads_are_in_memory(
    settings: ServerSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("task_server.store.blobs.s3.UPLOADS", 2)
    blobs = await open_blobs(settings)
    begun: list[int] = []
    go_on = asyncio.Event()

    async def halting(number: int) -> AsyncIterator[bytes]:
        begun.append(number)
        await go_on.wait()
        yield b"%d" % number

    puts = [
        asyncio.ensure_future(blobs.put(name_of(b"%d" % number), halting(number)))
        for number in range(5)
    ]
    await asyncio.wait(puts, timeout=0.5)
    assert len(begun) == 2
    go_on.set()

    assert await asyncio.gather(*puts) == [1] * 5


# ---- in a server


async def test_two_servers_share_blobs_by_the_bucket_alone(
    settings: ServerSettings, tmp_path: Path
) -> None:
    path = f"/v1/blobs/{name_of(DATA)}"
    async with application(tmp_path / "one", blobs=settings.blobs) as one:
        reply = await one.ask("PUT", path, DATA, token="worker", headers={})
        assert reply.status == 201

    async with application(tmp_path / "two", blobs=settings.blobs) as two:
        reply = await two.ask("GET", path, token="worker")
        assert reply.body == DATA
        assert reply.headers["content-length"] == str(len(DATA))
        head = await two.ask("HEAD", path, token="worker")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(DATA))


async def test_a_wrong_digest_is_refused_by_a_server_and_leaves_nothing(
    settings: ServerSettings, s3: S3Server, tmp_path: Path
) -> None:
    async with application(tmp_path, blobs=settings.blobs) as app:
        reply = await app.ask("PUT", f"/v1/blobs/{name_of(b'other')}", DATA, headers={})

        assert reply.status == 422
        assert await app.state.blobs.size(name_of(b"other")) is None
    assert s3.unfinished_uploads() == 0


async def test_a_failing_source_keeps_its_own_error(settings: ServerSettings) -> None:
    blobs = await open_blobs(settings)
    told = Invalid("not this one")

    async def failing() -> AsyncIterator[bytes]:
        yield DATA
        raise told

    with pytest.raises(Invalid) as caught:
        await blobs.put(name_of(DATA), failing())
    assert caught.value is told
