"""A stream on its way into a store: gathered, counted, and checked against its name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator

from task_server.errors import Invalid, TooLarge, Unavailable
from task_server.store.blobs.contract import check_name

PIECE_BYTES = 2**18
"""What is read or written at a time."""
SILENCE_SECONDS = 60.0
"""How long a sender may send nothing: one that lost its network would be waited for for ever."""


async def checked(
    name: str, pieces: AsyncIterable[bytes], *, maximum_bytes: int
) -> AsyncIterator[bytes]:
    """The stream in pieces of at least PIECE_BYTES; its end comes only if the name is right.

    Raises Invalid in place of the end otherwise, TooLarge over the limit, Unavailable when
    nothing more comes.
    """
    digest = check_name(name)
    seen = hashlib.sha256()
    size = 0
    async for piece in _gathered(pieces):
        size += len(piece)
        if size > maximum_bytes:
            raise TooLarge(f"a blob may have {maximum_bytes} bytes")
        await asyncio.to_thread(seen.update, piece)
        yield piece
    if seen.hexdigest() != digest:
        raise Invalid("the content has another SHA-256 than its name says")


async def _gathered(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    iterator = aiter(pieces)
    held: list[bytes] = []
    size = 0
    while (piece := await _next(iterator)) is not None:
        held.append(piece)
        size += len(piece)
        if size >= PIECE_BYTES:
            whole, held, size = b"".join(held), [], 0
            yield whole
    if size:
        yield b"".join(held)


async def _next(iterator: AsyncIterator[bytes]) -> bytes | None:
    try:
        async with asyncio.timeout(SILENCE_SECONDS):
            return await anext(iterator, None)
    except TimeoutError:
        message = f"nothing more of the blob came for {SILENCE_SECONDS:g} s; send it again"
        raise Unavailable(message) from None
