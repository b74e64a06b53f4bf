"""Blobs as files of one directory, which several servers may share."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from task_server.errors import RequestError, StorageFull, Unavailable
from task_server.store.blobs.checked import PIECE_BYTES, Content, gathered
from task_server.store.blobs.contract import KeptBlob, OpenBlob, absent, check_name, name_of

log = logging.getLogger(__name__)

STALE_SECONDS = 3600.0
"""A partial file that nobody wrote to for so long was left by a server that died."""
WHOLE_BYTES = 5 << 18
"""A blob up to this size is read at once: each further piece is a trip to another thread."""
_THREADS = 8
"""Of its own: an fsync takes as long as the disk likes, and nothing else may wait for it."""
_PARTIAL = ".partial"
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NO_WAIT = getattr(os, "RWF_NOWAIT", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class DirectoryBlobs:
    """The blobs below a directory: DIRECTORY/HE/HEX. Raises OSError when it cannot be used."""

    def __init__(self, directory: Path, *, maximum_bytes: int) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        self.on_full: Callable[[], bool] = lambda: False
        self._threads = ThreadPoolExecutor(_THREADS, "blobs")
        _make(directory)
        _remove_stale(directory)

    async def size(self, name: str) -> int | None:
        """Bytes of a blob; None when it is not there."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failure(error) from error

    async def put(self, name: str, pieces: AsyncIterable[bytes]) -> int:
        """Store a stream; it and its name are on disk when this returns."""
        partial = _Partial(self._directory, name)
        writing: asyncio.Future[None] | None = None
        size, last = 0, b""
        try:
            async for piece in gathered(pieces, maximum_bytes=self._maximum_bytes):
                size += len(piece)
                if writing is not None:
                    await writing
                if len(piece) < PIECE_BYTES:
                    last = piece  # mostly the only one: it goes to another thread with the rest
                else:  # beside the arrival of the next one
                    writing = asyncio.ensure_future(self._run(partial.write, piece))
            if writing is not None:
                await writing
            await self._run(partial.keep, last, self._path(name))
        except BaseException:
            if writing is not None:
                await asyncio.gather(writing, return_exceptions=True)
            partial.discard()
            raise
        return size

    async def put_bytes(self, data: bytes) -> str:
        """Store bytes; gives their name."""
        name = await self._run(name_of, data)
        if not await self._run(_renew, self._path(name)):
            await self.put(name, _one(data))
        return name

    async def open(self, name: str) -> OpenBlob:
        """Begin to read a blob."""
        path = self._path(name)
        opened = _open_in_memory(path)
        if opened is None:
            opened = await self._run(_open, path)
        file, size, first = opened
        return OpenBlob(size, self._pieces(file, first, size))

    async def read(self, name: str) -> bytes:
        """All of a blob."""
        return await self._run(_read, self._path(name))

    async def delete(self, name: str) -> None:
        """Take a blob away."""
        await self._run(_delete, self._path(name))

    async def listed(self) -> AsyncIterator[KeptBlob]:
        """All blobs."""
        for folder in await self._run(_folders, self._directory):
            for blob in await self._run(_listed, folder):
                yield blob

    def _path(self, name: str) -> Path:
        digest = check_name(name)
        return self._directory / digest[:2] / digest

    async def _pieces(self, file: BinaryIO, first: bytes, size: int) -> AsyncGenerator[bytes, None]:
        with file:
            piece, left = first, size
            while piece:
                yield piece
                left -= len(piece)
                piece = await self._run(file.read, PIECE_BYTES) if left else b""

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        """Do something that waits for the disk. Raises StorageFull, Unavailable."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, work, *arguments)
        except OSError as error:
            raise self._failure(error) from error

    def _failure(self, error: OSError) -> RequestError:
        log.error("the directory of blobs: %s", error)
        if error.errno in _FULL:
            self.on_full()
            return StorageFull(
                "the disk of the blobs is full; free some space there, then try again"
            )
        return Unavailable(
            f"the directory of blobs failed: {error.strerror or type(error).__name__}"
        )


class _Partial:
    """A blob that is being written, by other threads than the event loop's."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._content = Content(name)
        self._file: BinaryIO | None = None
        self._path: Path | None = None

    def write(self, piece: bytes) -> None:
        """Write on."""
        self._content.add(piece)
        self._opened().write(piece)

    def keep(self, last: bytes, path: Path) -> None:
        """Write the last piece, and put content and name on disk. Raises Invalid."""
        self.write(last)
        self._content.check()
        with self._opened() as file:
            file.flush()
            os.fsync(file.fileno())
        assert self._path is not None
        self._path.rename(path)
        _sync(path.parent)

    def _opened(self) -> BinaryIO:
        if self._file is None:
            descriptor, path = tempfile.mkstemp(suffix=_PARTIAL, dir=self._directory)
            self._path = Path(path)
            self._file = os.fdopen(descriptor, "wb")
        return self._file

    def discard(self) -> None:
        """Leave nothing of it."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._file is not None:
            try:
                self._file.close()
            except OSError as error:  # what was still to be written is not wanted
                log.warning("a discarded blob: %s", error)


def _make(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    directory.mkdir(exist_ok=True, mode=0o700)
    for number in range(256):  # once for all: a new one would have to be synced by whoever uses it
        (directory / f"{number:02x}").mkdir(exist_ok=True, mode=0o700)
    _sync(directory)
    _sync(directory.parent)


def _remove_stale(directory: Path) -> None:
    oldest = time.time() - STALE_SECONDS
    for path in directory.glob(f"*{_PARTIAL}"):
        try:
            if path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:
            pass  # another server was quicker


def _renew(path: Path) -> bool:
    """Make a blob one that was stored now; False when it is not there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    _sync(path.parent)  # another request may have put it there a moment ago
    return True


def _open_in_memory(path: Path) -> tuple[BinaryIO, int, bytes] | None:
    """As `_open`, at once; None for what is not small or where the disk would be waited for."""
    if not _NO_WAIT:
        return None
    try:
        file = path.open("rb", buffering=0)
    except OSError:
        return None
    size = os.fstat(file.fileno()).st_size
    if size <= WHOLE_BYTES:
        first = bytearray(size)
        try:
            if os.preadv(file.fileno(), [first], 0, _NO_WAIT) == size:
                return file, size, cast(bytes, first)  # nobody writes to it any more
        except OSError:  # not in memory, or a file system that cannot tell
            pass
    file.close()
    return None


def _open(path: Path) -> tuple[BinaryIO, int, bytes]:
    """The file, its size and its first piece."""
    try:
        file = path.open("rb", buffering=0)
    except FileNotFoundError:
        raise absent() from None
    try:
        size = os.fstat(file.fileno()).st_size
        return file, size, file.read(size if size <= WHOLE_BYTES else PIECE_BYTES)
    except OSError:
        file.close()
        raise


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise absent() from None


def _delete(path: Path) -> None:
    path.unlink(missing_ok=True)


def _folders(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if path.is_dir()]


def _listed(folder: Path) -> list[KeptBlob]:
    found = []
    for entry in os.scandir(folder):
        if _DIGEST.fullmatch(entry.name):
            try:
                at = entry.stat()
            except FileNotFoundError:
                continue
            found.append(KeptBlob(f"sha256:{entry.name}", at.st_size, at.st_mtime))
    return found


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
