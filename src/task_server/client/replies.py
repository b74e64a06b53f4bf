"""A reply of HTTP/1, taken apart as its bytes come. No I/O."""

from __future__ import annotations

import re

HEAD_BYTES = 64 * 1024
"""Most bytes before a body, and of what follows the last chunk of one."""

_STATUS = re.compile(r"HTTP/1\.([01]) ([1-5]\d\d)(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")


class BadReply(Exception):
    """What came is no reply of HTTP/1, or none that is taken."""


class ReplyReader:
    """Reads one reply."""

    def __init__(self, *, bodiless: bool) -> None:
        self.status = 0
        """0 until the head is there."""
        self.headers: dict[str, str] = {}
        """Names are in lower case."""
        self.pieces: list[bytes] = []
        """What has come of the body; whoever takes them leaves the list empty."""
        self.has_begun = False
        """Whether any byte has come."""
        self.is_whole = False
        self.is_last = True
        """Whether the connection cannot be used for another request."""
        self._bodiless = bodiless
        self._unread = b""
        self._head_bytes = 0
        self._is_chunked = False
        self._left: int | None = 0
        """Bytes to come of the body, or of a chunk; None: all until the connection ends."""
        self._in_chunk = False
        """Until the line break after a chunk has come."""
        self._after_chunks = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises BadReply."""
        if self.is_whole:
            self.is_last = True  # nobody asked for these
            return
        self.has_begun = True
        if self._unread:
            data = self._unread + data
            self._unread = b""
        if not self.status:
            data = self._take_heads(data)
            if not self.status:
                return
        if self._is_chunked:
            self._take_chunks(data)
        elif self._left is not None:
            self._take_part(data, self._left)
        elif data:
            self.pieces.append(data)

    def waiting_bytes(self) -> int:
        """Of the body, come and not taken."""
        return sum(map(len, self.pieces))

    def end(self) -> None:
        """The connection has ended; a reply without a length is whole then."""
        if self.status and self._left is None:
            self.is_whole = True

    def _take_heads(self, data: bytes) -> bytes:
        """Read the head and those of interim replies before it; gives what follows."""
        while not self.status:
            end = data.find(b"\r\n\r\n")
            size = self._head_bytes + (len(data) if end < 0 else end)
            if size > HEAD_BYTES:
                raise BadReply(f"the head of its reply is longer than {HEAD_BYTES >> 10} KiB")
            if end < 0:
                if data[:7] != b"HTTP/1."[: len(data)]:
                    raise _no_http(data.decode("latin-1"))
                self._unread = data
                return b""
            self._head_bytes = size
            self._take_head(data[:end].decode("latin-1"))
            data = data[end + 4 :]
        return data

    def _take_head(self, head: str) -> None:
        line, *lines = head.split("\r\n")
        found = _STATUS.fullmatch(line)
        if found is None:
            raise _no_http(line)
        status = int(found[2])
        if status == 101:
            raise BadReply("it switched to another protocol, unasked")
        if status < 200:
            return
        self.status = status
        self.headers = headers = _headers(lines)
        connection = headers.get("connection", "").lower()
        self.is_last = "keep-alive" not in connection if found[1] == "0" else "close" in connection
        self._choose_framing()

    def _choose_framing(self) -> None:
        headers = self.headers
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        if self._bodiless or self.status in (204, 304):
            return
        if coding is not None:
            if coding.lower() != "chunked":
                raise BadReply(f"its reply has an unknown transfer coding, {coding[:40]!r}")
            self._is_chunked = True
            # With a length too, it and what stands between may differ on where the reply ends.
            self.is_last = self.is_last or length is not None
        elif length is None:
            self._left = None
            self.is_last = True
        elif _LENGTH.fullmatch(length):
            self._left = int(length)
        else:
            raise BadReply(f"its reply has a length of {length[:40]!r}")

    def _take_part(self, data: bytes, left: int) -> None:
        more = len(data) - left
        if more >= 0:
            self.is_whole = True
            if more:
                self.is_last = True  # nobody asked for these
                data = data[:left]
        else:
            self._left = -more
        if data:
            self.pieces.append(data)

    def _take_chunks(self, data: bytes) -> None:
        at = 0
        while not self.is_whole:
            if self._left:
                piece = data[at : at + self._left]
                if piece:
                    self.pieces.append(piece)
                    self._left -= len(piece)
                    at += len(piece)
                if self._left:
                    return
            end = data.find(b"\r\n", at)
            if end < 0:
                self._unread = data[at:]
                self._check_line(len(self._unread))
                return
            self._take_line(data[at:end])
            at = end + 2
        if at < len(data):
            self.is_last = True  # nobody asked for these

    def _take_line(self, line: bytes) -> None:
        """A line between chunks, or after the last."""
        if self._after_chunks:
            self._check_line(len(line))
            self._head_bytes += len(line)
            self.is_whole = not line
        elif self._in_chunk:
            if line:
                raise BadReply("a chunk of its reply is longer than it says")
            self._in_chunk = False
        else:
            found = _CHUNK.fullmatch(line)
            if found is None:
                raise BadReply(f"its reply has a chunk of size {line[:40]!r}")
            self._left = int(found[1], 16)
            self._in_chunk = self._left > 0
            self._after_chunks = not self._in_chunk

    def _check_line(self, size: int) -> None:
        if self._head_bytes + size > 2 * HEAD_BYTES:
            raise BadReply("a line between the chunks of its reply does not end")


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name.strip() != name or "\n" in line:
            raise BadReply(f"its reply has a header that is none, {line[:40]!r}")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _no_http(text: str) -> BadReply:
    return BadReply(f"what answers there speaks no HTTP/1.1; it said {text[:40]!r}")
