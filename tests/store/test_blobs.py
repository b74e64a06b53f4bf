"""What every store of blobs promises."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from task_server.errors import Invalid, NotFound, TooLarge, Unavailable
from task_server.settings import ServerSettings
from task_server.store.blobs import Blobs, checked, directory, name_of, open_blobs
from tests.store.s3_server import BUCKET, S3Server, s3_server

KIB, MIB = 2**10, 2**20
LIMIT = 16 * MIB
PARTS = 12 * MIB + 3
"""More than one part of an upload to S3."""
NAMES = ["x", "sha256:", "sha256:../../x", "sha256:" + "0" * 63, "sha256:" + "A" * 64]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


Place = tuple[ServerSettings, S3Server | None]


@pytest.fixture(params=["directory", pytest.param("s3", marks=pytest.mark.e2e)])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "directory":
        return ServerSettings(data=tmp_path, blob_bytes=LIMIT), None
    server: S3Server = request.getfixturevalue("s3")
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    url = f"s3://{BUCKET}/below/{uuid4()}"
    return ServerSettings(data=tmp_path, blobs=url, blob_bytes=LIMIT), server


@pytest.fixture
async def blobs(place: Place, tmp_path: Path) -> AsyncIterator[Blobs]:
    """An empty store; nothing half done may be left in it."""
    settings, server = place
    yield await open_blobs(settings)
    assert list(tmp_path.rglob("*.partial")) == []
    if server is not None:
        assert server.unfinished_uploads() == 0
        assert list(tmp_path.iterdir()) == []


def content(size: int) -> bytes:
    """Bytes of which no two pieces are alike."""
    rows = (b"%015d\n" % number for number in range(size // 16 + 1))
    return b"".join(rows)[:size]


async def sent(data: bytes, piece_bytes: int = 64 * KIB) -> AsyncGenerator[bytes, None]:
    """The pieces of a request's body."""
    for start in range(0, len(data), piece_bytes):
        yield data[start : start + piece_bytes]
    yield b""


async def names_in(blobs: Blobs) -> list[str]:
    return [blob.name async for blob in blobs.listed()]


@pytest.mark.parametrize("size", [0, 1, 64 * KIB + 1, 5 * MIB, PARTS])
async def test_what_is_stored_comes_back(blobs: Blobs, size: int) -> None:
    data = content(size)
    name = name_of(data)

    assert await blobs.put(name, sent(data)) == size

    opened = await blobs.open(name)
    assert opened.size == await blobs.size(name) == size
    assert b"".join([piece async for piece in opened.pieces]) == data
    assert await blobs.read(name) == data


@pytest.mark.parametrize("size", [3, PARTS])
async def test_bytes_are_stored_under_their_name(blobs: Blobs, size: int) -> None:
    data = content(size)

    names = await asyncio.gather(*(blobs.put_bytes(data) for _ in range(3)))

    assert set(names) == {name_of(data)}
    assert await blobs.read(names[0]) == data


async def test_a_blob_is_read_in_pieces(blobs: Blobs) -> None:
    data = content(PARTS)
    await blobs.put(name_of(data), sent(data))

    opened = await blobs.open(name_of(data))

    assert max([len(piece) async for piece in opened.pieces]) < MIB


async def test_a_blob_need_not_be_read_to_its_end(blobs: Blobs) -> None:
    data = content(PARTS)
    await blobs.put(name_of(data), sent(data))

    opened = await blobs.open(name_of(data))
    first = await anext(opened.pieces)
    await opened.pieces.aclose()

    assert data.startswith(first) and len(first) < len(data)


@pytest.mark.parametrize("size", [10, PARTS])
async def test_a_content_of_another_digest_is_never_seen(blobs: Blobs, size: int) -> None:
    right, wrong = content(size), content(size)[:-1] + b"!"
    name = name_of(right)

    with pytest.raises(Invalid, match="SHA-256"):
        await blobs.put(name, sent(wrong))

    assert await blobs.size(name) is None
    assert await names_in(blobs) == []
    await blobs.put(name, sent(right))
    assert await blobs.read(name) == right


async def test_nothing_is_seen_before_all_has_come(blobs: Blobs) -> None:
    data = content(PARTS)
    name = name_of(data)
    seen: list[object] = []

    async def watched() -> AsyncIterator[bytes]:
        async for piece in sent(data, MIB):
            yield piece
            seen.append(await blobs.size(name))
            seen.extend(await names_in(blobs))

    await blobs.put(name, watched())

    assert len(seen) > 10 and set(seen) == {None}


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
async def test_more_than_the_limit_is_refused(blobs: Blobs, size: int) -> None:
    data = content(size)

    with pytest.raises(TooLarge):
        await blobs.put(name_of(data), sent(data))

    assert await names_in(blobs) == []


@pytest.mark.parametrize("size", [100, PARTS])
async def test_a_stream_that_breaks_leaves_nothing(blobs: Blobs, size: int) -> None:
    data = content(size)

    async def broken() -> AsyncIterator[bytes]:
        async for piece in sent(data[:-1]):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.put(name_of(data), broken())

    assert await names_in(blobs) == []


@pytest.mark.parametrize("size", [100, PARTS])
async def test_a_put_that_is_cancelled_leaves_nothing(blobs: Blobs, size: int) -> None:
    data = content(size)
    halted = asyncio.Event()

    async def halting() -> AsyncIterator[bytes]:
        async for piece in sent(data[:-1]):
            yield piece
        halted.set()
        await asyncio.Event().wait()

    putting = asyncio.ensure_future(blobs.put(name_of(data), halting()))
    await halted.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting

    assert await names_in(blobs) == []


@pytest.mark.parametrize("size", [100, PARTS])
async def test_a_sender_that_falls_silent_is_given_up(
    blobs: Blobs, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checked, "SILENCE_SECONDS", 1.0)
    data = content(size)

    async def silent() -> AsyncIterator[bytes]:
        async for piece in sent(data[:-1]):
            yield piece
        await asyncio.Event().wait()

    with pytest.raises(Unavailable, match="nothing more of the blob came"):
        await blobs.put(name_of(data), silent())


async def test_what_is_stored_again_is_young_again(blobs: Blobs) -> None:
    data = content(100)
    begun = time.time()
    await blobs.put_bytes(data)
    (first,) = [blob async for blob in blobs.listed()]
    assert begun - 1 <= first.stored_at <= time.time() + 1

    await asyncio.sleep(first.stored_at + 1.1 - time.time())  # some stores tell whole seconds
    await blobs.put_bytes(data)

    (again,) = [blob async for blob in blobs.listed()]
    assert again.stored_at > first.stored_at
    assert (again.name, again.size) == (first.name, first.size) == (name_of(data), 100)


async def test_all_blobs_are_listed(blobs: Blobs) -> None:
    datas = [b"%d" % number for number in range(1, 1102)]
    names = {name_of(data): len(data) for data in datas}
    for start in range(0, len(datas), 50):
        await asyncio.gather(*(blobs.put_bytes(data) for data in datas[start : start + 50]))

    assert {blob.name: blob.size async for blob in blobs.listed()} == names


async def test_a_deleted_blob_is_gone(blobs: Blobs) -> None:
    name, other = await blobs.put_bytes(b"content"), await blobs.put_bytes(b"other")

    await blobs.delete(name)
    await blobs.delete(name)

    assert await blobs.size(name) is None
    assert await names_in(blobs) == [other]
    for reading in (blobs.read, blobs.open):
        with pytest.raises(NotFound):
            await reading(name)


@pytest.mark.parametrize("name", NAMES)
async def test_what_is_no_name_is_not_found(blobs: Blobs, name: str) -> None:
    calls: list[Callable[[str], Awaitable[object]]]
    calls = [blobs.size, blobs.read, blobs.open, blobs.delete]
    for call in calls:
        with pytest.raises(NotFound):
            await call(name)
    with pytest.raises(NotFound):
        await blobs.put(name, sent(b"x"))


async def test_many_large_blobs_are_stored_at_once(blobs: Blobs) -> None:
    datas = [b"%d" % number + content(6 * MIB) for number in range(6)]

    await asyncio.gather(*(blobs.put(name_of(data), sent(data)) for data in datas))

    for data in datas:
        assert hashlib.sha256(await blobs.read(name_of(data))).digest() == (
            hashlib.sha256(data).digest()
        )


# ---- a directory alone


async def test_blobs_lie_in_the_data_directory_unless_another_is_named(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "others" / "blobs"
    first = await open_blobs(ServerSettings(data=data))
    second = await open_blobs(ServerSettings(data=data, blobs=str(other)))

    name = await first.put_bytes(b"content")
    await second.put_bytes(b"content")

    assert (data / "blobs" / name[7:9] / name[7:]).read_bytes() == b"content"
    assert (other / name[7:9] / name[7:]).read_bytes() == b"content"
    assert {path.stat().st_mode & 0o77 for path in (data, data / "blobs", other)} == {0}


async def test_partial_files_of_a_dead_server_go_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "blobs"
    folder.mkdir()
    left, growing = folder / "left.partial", folder / "growing.partial"
    left.touch()
    growing.touch()
    os.utime(left, (0, 0))
    await open_blobs(ServerSettings(data=tmp_path))

    assert list(folder.glob("*.partial")) == [growing]


async def test_files_that_are_no_blobs_are_not_listed(tmp_path: Path) -> None:
    blobs = await open_blobs(ServerSettings(data=tmp_path))
    name = await blobs.put_bytes(b"content")
    (tmp_path / "blobs" / "README").write_text("not a blob")
    (tmp_path / "blobs" / name[7:9] / "x.tmp").write_text("neither")

    assert await names_in(blobs) == [name]


@pytest.mark.parametrize("flag", [0, os.RWF_NOWAIT])
async def test_a_blob_is_read_alike_whether_or_not_memory_can_be_asked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: int
) -> None:
    monkeypatch.setattr(directory, "_NO_WAIT", flag)
    blobs = await open_blobs(ServerSettings(data=tmp_path))
    for size in (0, 1, 5 << 18, (5 << 18) + 1):
        data = content(size)
        found = await blobs.open(await blobs.put_bytes(data))

        assert found.size == size
        assert b"".join([piece async for piece in found.pieces]) == data


async def test_a_piece_that_cannot_be_written_fails_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(directory._Partial, "write", fail)
    blobs = await open_blobs(ServerSettings(data=tmp_path))
    data = content(3 * MIB)

    with pytest.raises(Unavailable, match="directory of blobs failed"):
        await blobs.put(name_of(data), sent(data))

    assert await names_in(blobs) == []


async def test_a_disk_that_fails_is_told_as_unavailable(tmp_path: Path) -> None:
    blobs = await open_blobs(ServerSettings(data=tmp_path))
    name = name_of(b"content")
    (tmp_path / "blobs" / name[7:9]).rmdir()
    (tmp_path / "blobs" / name[7:9]).write_text("a file where the folder should be")

    with pytest.raises(Unavailable, match="directory of blobs failed"):
        await blobs.put(name, sent(b"content"))

    assert list((tmp_path / "blobs").glob("*.partial")) == []
