"""Forms with a file in them (multipart/form-data), as twine and `uv publish` send them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import BinaryIO

from task_server.errors import Malformed, TooLarge, WrongMediaType

_BOUNDARY = re.compile(rb'multipart/form-data;.*?boundary="?([^";,\s]{1,70})"?', re.IGNORECASE)
_NAME = re.compile(rb'[;\s]name="([^"\r\n]*)"')
_FILENAME = re.compile(rb'[;\s]filename="([^"\r\n]*)"')
_MAX_HEAD = 8 * 1024
_MAX_FIELDS = 2000
_MAX_FIELD_BYTES = 2 * 1024 * 1024


def boundary_of(content_type: bytes) -> bytes:
    """The line between the parts. Raises WrongMediaType when it is no such form."""
    found = _BOUNDARY.match(content_type)
    if found is None:
        raise WrongMediaType("send the wheel as multipart/form-data, as twine and uv publish do")
    return b"\r\n--" + found[1]


class Form:
    """Reads a form as it comes: small fields into memory, the one file into `file`."""

    def __init__(self, boundary: bytes, file: BinaryIO, *, limit: int) -> None:
        self._boundary = boundary
        self._file = file
        self._limit = limit
        self._held = b"\r\n"  # the first line has no end of line before it
        self._total = 0
        self._count = 0
        self.fields: dict[str, str] = {}
        """The first of each name."""
        self.filename: str | None = None
        """None: no file came."""

    async def read(self, pieces: AsyncIterator[bytes]) -> None:
        """Read all of it. Raises Malformed, TooLarge."""
        await self._part(pieces, _Sink(None))  # what stands before the first part
        while not await self._is_end(pieces):
            head = await self._head(pieces)
            self._count += 1
            if self._count > _MAX_FIELDS:
                raise Malformed(f"the form has more than {_MAX_FIELDS} fields")
            await self._take(pieces, head)

    async def _take(self, pieces: AsyncIterator[bytes], head: bytes) -> None:
        name = _NAME.search(head)
        if name is None:
            raise Malformed("a part of the form has no name")
        filename = _FILENAME.search(head)
        if filename is None:
            sink = _Sink(None)
            await self._part(pieces, sink)
            text = bytes(sink.held).decode("utf-8", "replace")
            self.fields.setdefault(name[1].decode("utf-8", "replace"), text)
            return
        if self.filename is not None:
            raise Malformed("the form has more than one file")
        self.filename = filename[1].decode("utf-8", "replace")
        await self._part(pieces, _Sink(self._file))

    async def _more(self, pieces: AsyncIterator[bytes]) -> None:
        piece = await anext(pieces, None)
        if piece is None:
            raise Malformed("the form breaks off")
        self._total += len(piece)
        if self._total > self._limit:
            raise TooLarge(f"a wheel may have {self._limit} bytes, with its form")
        self._held += piece

    async def _is_end(self, pieces: AsyncIterator[bytes]) -> bool:
        while len(self._held) < 2:
            await self._more(pieces)
        return self._held.startswith(b"--")

    async def _head(self, pieces: AsyncIterator[bytes]) -> bytes:
        while (end := self._held.find(b"\r\n\r\n")) < 0:
            if len(self._held) > _MAX_HEAD:
                raise Malformed("the head of a part of the form is too long")
            await self._more(pieces)
        head, self._held = self._held[:end], self._held[end + 4 :]
        # An empty part begins with the line that ends it.
        if self._held.startswith(self._boundary[2:]):
            self._held = b"\r\n" + self._held
        return head

    async def _part(self, pieces: AsyncIterator[bytes], sink: _Sink) -> None:
        """Pass on what comes up to the next boundary, which is dropped."""
        while (end := self._held.find(self._boundary)) < 0:
            sure = max(0, len(self._held) - len(self._boundary))
            await sink.take(self._held[:sure])
            self._held = self._held[sure:]
            await self._more(pieces)
        await sink.take(self._held[:end])
        self._held = self._held[end + len(self._boundary) :]


class _Sink:
    """Where a part goes: a file, else memory."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self.held = bytearray()

    async def take(self, piece: bytes) -> None:
        if not piece:
            return
        if self._file is not None:
            await asyncio.to_thread(self._file.write, piece)
            return
        self.held += piece
        if len(self.held) > _MAX_FIELD_BYTES:
            raise TooLarge(f"a field of the form may have {_MAX_FIELD_BYTES} bytes")
