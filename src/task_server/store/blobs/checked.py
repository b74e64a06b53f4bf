"""A stream on its way into a store: gathered, counted, and checked against its name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from task_server.errors import Invalid, TooLarge, Unavailable
from task_server.store.blobs.contract import check_name

PIECE_BYTES = 15 << 15
"""What is read or written at a time: what uvloop reads in two steps of 256,000 bytes is enough."""
SILENCE_SECONDS = 60.0
"""How long a sender may send nothing: one that lost its network would be waited for for ever."""


async def checked(
    name: str, pieces: AsyncIterable[bytes], *, maximum_bytes: int
) -> AsyncIterator[bytes]:
    """The stream in pieces of at least PIECE_BYTES; its end comes only if the name is right.

    Raises Invalid in place of the end otherwise, TooLarge over the limit, Unavailable when
    nothing more comes.
    """
    content = Content(name)
    async for piece in gathered(pieces, maximum_bytes=maximum_bytes):
        await asyncio.to_thread(content.add, piece)
        yield piece
    content.check()


class Content:
    """What came of a blob so far."""

    def __init__(self, name: str) -> None:
        self._digest = check_name(name)
        self._seen = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """The next piece."""
        self._seen.update(piece)

    def check(self) -> None:
        """Raise Invalid unless all of it is what its name says."""
        if self._seen.hexdigest() != self._digest:
            raise Invalid("the content has another SHA-256 than its name says")


async def gathered(pieces: AsyncIterable[bytes], *, maximum_bytes: int) -> AsyncIterator[bytes]:
    """The stream in pieces of at least PIECE_BYTES. Raises TooLarge, Unavailable."""
    iterator, size = aiter(pieces), 0
    while piece := await _next(iterator):
        size += len(piece)
        if size > maximum_bytes:
            raise TooLarge(f"a blob may have {maximum_bytes} bytes")
        yield piece


async def _next(iterator: AsyncIterator[bytes]) -> bytes:
    """At least PIECE_BYTES; less, or nothing, at the end."""
    loop, held, size = asyncio.get_running_loop(), [], 0
    try:
        async with asyncio.timeout(SILENCE_SECONDS) as limit:
            while size < PIECE_BYTES and (piece := await anext(iterator, None)) is not None:
                held.append(piece)
                size += len(piece)
                limit.reschedule(loop.time() + SILENCE_SECONDS)
    except TimeoutError:
        message = f"nothing more of the blob came for {SILENCE_SECONDS:g} s; send it again"
        raise Unavailable(message) from None
    return b"".join(held)
