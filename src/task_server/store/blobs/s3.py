"""Blobs in a bucket of S3, or of what speaks S3, by obstore. Needs the extra `s3`."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import uuid
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from task_server.errors import TaskServerError, Unavailable
from task_server.store.blobs.checked import PIECE_BYTES, checked
from task_server.store.blobs.contract import KeptBlob, OpenBlob, absent, check_name, name_of

log = logging.getLogger(__name__)

PART_BYTES = 5 * 2**20
"""What goes in one request: S3 takes no smaller part, and 10,000 of these are 48 GiB."""
UPLOADS = 16
"""Uploads at once; others wait. Each costs up to two parts of memory (measured: 11 MiB)."""
ABORT_SECONDS = 10.0
RETRIES = 8
_RETRY_SECONDS = 20.0
"""How long a request is tried again; clients wait 30 s."""
_SILENCE_SECONDS = 30.0
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ENDPOINT = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
_TOLD = re.compile(r"<Code>([^<]*)</Code>(?:.*?<Message>([^<]*)</Message>)?", re.DOTALL)


class S3Blobs:
    """The blobs of `s3://BUCKET/PREFIX`: one object each, PREFIX/HEX.

    Endpoint, region and credentials come from the variables AWS_*. Raises TaskServerError when
    they cannot be used.
    """

    def __init__(self, url: str, *, maximum_bytes: int) -> None:
        self._url = url
        self._maximum_bytes = maximum_bytes
        self._uploads = asyncio.Semaphore(UPLOADS)
        self.on_full: Callable[[], bool] = lambda: False
        _check_endpoint()
        parts = urlsplit(url)
        try:
            self._store = S3Store(
                parts.netloc,
                prefix=parts.path.strip("/") or None,
                client_options={
                    "allow_http": True,  # an endpoint is what AWS_ENDPOINT_URL says it is
                    "connect_timeout": "5s",
                    "read_timeout": timedelta(seconds=_SILENCE_SECONDS),
                    "timeout": "1d",  # of a whole transfer: its reader may be slow
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=_RETRY_SECONDS),
                },
            )
        except (BaseError, ValueError) as error:
            raise TaskServerError(f"blobs in {url}: {_first_line(error)}") from error

    async def check(self) -> None:
        """Raise TaskServerError unless blobs can be written, read, looked for and deleted."""
        name = f"check-{uuid.uuid4()}"
        try:
            await obstore.put_async(self._store, name, b"checked at the start of a server")
            await (await obstore.get_async(self._store, name)).bytes_async()
            async for _ in obstore.list(self._store, prefix=name):
                pass
            await obstore.delete_async(self._store, name)
        except (BaseError, OSError) as error:
            raise TaskServerError(
                f"blobs cannot be kept in {self._url}: {_cause(error)}; check the bucket and the"
                " variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and, for a store"
                " that is not Amazon's, AWS_ENDPOINT_URL"
            ) from error

    async def size(self, name: str) -> int | None:
        """Bytes of a blob; None when it is not there."""
        key = check_name(name)
        with _failures():
            try:
                return (await obstore.head_async(self._store, key))["size"]
            except FileNotFoundError:
                return None

    async def put(self, name: str, pieces: AsyncIterable[bytes]) -> int:
        """Store a stream; all but the last few MiB of it are in the bucket before it ends."""
        key = check_name(name)
        source = _Source(checked(name, pieces, maximum_bytes=self._maximum_bytes))
        async with self._uploads:
            first = await source.take(PART_BYTES)
            if source.has_ended:
                await self._put_whole(key, b"".join(first))
            else:
                source.put_back(first)
                await self._put_in_parts(key, source)
        return source.size

    async def put_bytes(self, data: bytes) -> str:
        """Store bytes, also where they were stored before: that makes them young."""
        name = await asyncio.to_thread(name_of, data)
        async with self._uploads:
            if len(data) <= PART_BYTES:
                await self._put_whole(name[7:], data)
            else:
                await self._put_in_parts(name[7:], _Source(_sliced(data)))
        return name

    async def open(self, name: str) -> OpenBlob:
        """Begin to read a blob."""
        key = check_name(name)
        with _failures():
            try:
                found = await obstore.get_async(self._store, key)
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise
                raise absent() from error
        return OpenBlob(found.meta["size"], _pieces(found))

    async def read(self, name: str) -> bytes:
        """All of a blob."""
        opened = await self.open(name)
        return b"".join([piece async for piece in opened.pieces])

    async def delete(self, name: str) -> None:
        """Take a blob away."""
        key = check_name(name)
        with _failures():
            await obstore.delete_async(self._store, key)

    async def listed(self) -> AsyncIterator[KeptBlob]:
        """All blobs; other objects below the prefix are passed over."""
        with _failures():
            async for page in obstore.list(self._store, chunk_size=1000):
                for each in page:
                    if _DIGEST.fullmatch(each["path"]):
                        stored_at = each["last_modified"].timestamp()
                        yield KeptBlob(f"sha256:{each['path']}", each["size"], stored_at)

    async def _put_whole(self, key: str, data: bytes) -> None:
        with _failures():
            await obstore.put_async(self._store, key, data, use_multipart=False)

    async def _put_in_parts(self, key: str, source: _Source) -> None:
        """A multipart upload, which is aborted unless the source ends well."""
        uploading = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                key,
                source,
                use_multipart=True,
                chunk_size=PART_BYTES,
                max_concurrency=1,
            )
        )
        try:
            with _failures():
                await asyncio.shield(uploading)
        except asyncio.CancelledError:
            # Cancelled itself it would leave its parts in the bucket; a source that fails ends it.
            source.fail()
            uploading.add_done_callback(
                lambda given_up: given_up.cancelled() or given_up.exception()
            )
            await asyncio.wait((uploading,), timeout=ABORT_SECONDS)
            raise


def _check_endpoint() -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        value = os.environ.get(name, "")
        if value and _ENDPOINT.fullmatch(value) is None:
            raise TaskServerError(f"{name}={value} is no URL; it looks like http://127.0.0.1:9000")


class _Source:
    """What an upload pulls its pieces from."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self.size = 0
        """Bytes that came so far."""
        self.has_ended = False
        self._pieces = pieces
        self._first: list[bytes] = []
        self._reading: asyncio.Task[object] | None = None
        self._has_failed = False

    async def take(self, size: int) -> list[bytes]:
        """The first pieces up to at least so many bytes, or up to the end."""
        taken = []
        while self.size < size:
            try:
                taken.append(await self._next())
            except StopAsyncIteration:
                break
        return taken

    def put_back(self, pieces: list[bytes]) -> None:
        """Give these first."""
        self._first = pieces[::-1]

    def fail(self) -> None:
        """Let the upload fail that waits for the next piece, or that will ask for it."""
        self._has_failed = True
        if self._reading is not None:
            self._reading.cancel()

    def __aiter__(self) -> _Source:
        return self

    async def __anext__(self) -> bytes:
        if self._has_failed:
            raise Unavailable("the upload was given up")
        if self._first:
            return self._first.pop()
        self._reading = asyncio.current_task()
        try:
            return await self._next()
        finally:
            self._reading = None

    async def _next(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self.has_ended = True
            raise
        self.size += len(piece)
        return piece


async def _pieces(found: obstore.GetResult) -> AsyncGenerator[bytes, None]:
    with _failures():
        async for piece in found.stream(min_chunk_size=PIECE_BYTES):
            yield piece


async def _sliced(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), PIECE_BYTES):
        yield data[start : start + PIECE_BYTES]


@contextmanager
def _failures() -> Iterator[None]:
    """Whatever the store fails with becomes Unavailable."""
    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        log.error("the store of blobs: %s (%s)", _first_line(error), _cause(error))
        raise Unavailable(f"the store of blobs failed: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What went wrong, without where: the store's own words if it had some."""
    told = _TOLD.search(str(error))
    if told is not None:
        return ": ".join(part for part in told.groups() if part)
    return _first_line(error).rpartition(" - ")[2].rstrip(": ")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].strip()
