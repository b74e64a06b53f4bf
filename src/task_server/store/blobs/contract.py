"""What a store of large payloads does: each is named by the SHA-256 of what it holds."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from typing import Protocol

from msgspec import Struct

from task_server.errors import NotFound

_NAME = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


def check_name(name: str) -> str:
    """The hex digest of `sha256:HEX`. Raises NotFound for anything else."""
    if _NAME.fullmatch(name) is None:
        raise NotFound("no such blob; its name is sha256: and 64 hexadecimal digits")
    return name[7:]


def name_of(data: bytes) -> str:
    """The name of the blob that holds `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def absent() -> NotFound:
    """The error for a blob that is not there."""
    return NotFound("there is no blob of that name")


class OpenBlob(Struct, frozen=True):
    """A blob that is being read."""

    size: int
    """Bytes."""
    pieces: AsyncGenerator[bytes, None]
    """All of it, once. Raises Unavailable when the store fails on the way."""


class KeptBlob(Struct, frozen=True):
    """A blob in a listing."""

    name: str
    size: int
    stored_at: float
    """Unix seconds, by the store's clock; the last time if it was stored more than once."""


class Blobs(Protocol):
    """A store of blobs. Whatever is given or read as a stream is never held whole.

    A name that is none raises NotFound; a store that fails raises Unavailable, a full one
    StorageFull.
    """

    on_full: Callable[[], bool]
    """Called when this machine's disk is found full; True when there is room now."""

    async def size(self, name: str) -> int | None:
        """Bytes of a blob; None when it is not there."""
        ...

    async def put(self, name: str, pieces: AsyncIterable[bytes]) -> int:
        """Store a stream under its name; gives its size. It is safe when this returns.

        Raises Invalid when the content has another digest, TooLarge over the limit. Nothing is
        ever seen under the name but the whole right content.
        """
        ...

    async def put_bytes(self, data: bytes) -> str:
        """Store bytes; gives their name. What was there already counts as stored now."""
        ...

    async def open(self, name: str) -> OpenBlob:
        """Begin to read a blob. Raises NotFound when it is not there."""
        ...

    async def read(self, name: str) -> bytes:
        """All of a blob, in memory. Raises NotFound when it is not there."""
        ...

    async def delete(self, name: str) -> None:
        """Take a blob away; one that is not there is no error."""
        ...

    def listed(self) -> AsyncIterator[KeptBlob]:
        """All blobs, in no order; those that come or go meanwhile may be told or not."""
        ...
