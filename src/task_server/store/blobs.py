"""Content-addressed payloads in a directory: named by the SHA-256 of what they hold."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from pathlib import Path

from task_server.errors import Invalid, NotFound, TooLarge

PIECE_BYTES = 2**18
_NAME = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def check_name(name: str) -> str:
    """The hex digest of `sha256:HEX`. Raises NotFound for anything else."""
    if _NAME.fullmatch(name) is None:
        raise NotFound("no such blob; its name is sha256: and 64 hexadecimal digits")
    return name[7:]


def name_of(data: bytes) -> str:
    """The name of the blob that holds `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Blobs:
    """A directory of blobs."""

    def __init__(self, directory: Path, *, maximum_bytes: int) -> None:
        self._directory = directory
        self._maximum_bytes = maximum_bytes
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in directory.glob("*.partial"):
            left.unlink()

    def path(self, name: str) -> Path:
        """Where the blob lies, if it is there."""
        digest = check_name(name)
        return self._directory / digest[:2] / digest

    def size(self, name: str) -> int | None:
        """Bytes of a blob; None when it is not there."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    async def put(self, name: str, pieces: AsyncIterable[bytes]) -> int:
        """Store a stream under its name; on disk when this returns. Gives its size.

        Raises Invalid when the content has another digest, TooLarge over the limit.
        """
        digest = check_name(name)
        seen = hashlib.sha256()
        size = 0
        descriptor, partial = tempfile.mkstemp(suffix=".partial", dir=self._directory)
        try:
            with os.fdopen(descriptor, "wb") as file:
                async for piece in pieces:
                    size += len(piece)
                    if size > self._maximum_bytes:
                        raise TooLarge(f"a blob may have {self._maximum_bytes} bytes")
                    seen.update(piece)
                    file.write(piece)
                if seen.hexdigest() != digest:
                    raise Invalid("the content has another SHA-256 than its name says")
                await asyncio.to_thread(self._keep, file, partial, digest)
        except BaseException:
            _discard(partial)
            raise
        return size

    async def put_bytes(self, data: bytes) -> str:
        """Store bytes; gives their name."""
        name = name_of(data)
        if self.size(name) is None:
            await self.put(name, _one(data))
        return name

    def _keep(self, file: object, partial: str, digest: str) -> None:
        file.flush()  # type: ignore[attr-defined]  # a binary file
        os.fsync(file.fileno())  # type: ignore[attr-defined]
        folder = self._directory / digest[:2]
        folder.mkdir(exist_ok=True, mode=0o700)
        Path(partial).rename(folder / digest)
        # The name must be on disk too before anybody is told that the blob is there.
        for changed in (folder, self._directory):
            descriptor = os.open(changed, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    async def read(self, name: str) -> bytes:
        """All of a blob."""
        return await asyncio.to_thread(self.path(name).read_bytes)

    async def stream(self, name: str) -> AsyncIterator[bytes]:
        """A blob in pieces."""
        file = await asyncio.to_thread(self.path(name).open, "rb")
        with file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece


def _discard(partial: str) -> None:
    Path(partial).unlink(missing_ok=True)


async def _one(data: bytes) -> AsyncIterator[bytes]:
    yield data
