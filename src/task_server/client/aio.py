"""Requests in an event loop, on connections that are kept: for the worker's agent."""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import ssl
from collections.abc import Awaitable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TypeVar
from urllib.parse import quote

from task_server.client.address import PATH_LETTERS, Address, address_of, unreachable
from task_server.client.connection import Connection, Unanswered
from task_server.client.pool import Pool
from task_server.client.replies import BadReply
from task_server.client.requests import BYTES, Reply, refusal
from task_server.errors import TaskServerError

CHUNK_BYTES = 256 * 1024
PIECE_BYTES = 512 * 1024
"""Of a download, at least: each costs a trip to another thread."""
_BODILESS = frozenset({"GET", "HEAD"})
_LOST = (OSError, BadReply)
_REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE"})
"""Done twice they come to the same, whoever asks; others are for the caller to say again."""
T = TypeVar("T")

_NOT_IN_A_LINE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_NOT_IN_A_PATH = re.compile(r"[^\x21-\x7e]")


class AsyncTransport:
    """Kept connections to one server; an async context manager, to be used in one event loop."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        connections: int = 16,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        address = address_of(self.url)
        self._prefix = address.prefix
        self._headers = _own_headers(address, token)
        self._pool = Pool(
            address, most=connections, tls=(tls or _default_tls()) if address.tls else None
        )

    async def __aenter__(self) -> AsyncTransport:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections, for good; requests under way fail."""
        self._pool.close()
        await asyncio.sleep(0)  # the loop lets go of a socket in its next turn

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109  (one timer, which closes the connection too)
    ) -> Reply:
        """Send and read the whole reply, whatever its status, within `timeout` seconds.

        Raises ServerUnreachable when no whole reply came.
        """
        if body is None:
            head = self._head(method, path, None if method in _BODILESS else 0, headers)
            body = b""
        else:
            head = self._head(method, path, len(body), headers)
        until = asyncio.get_running_loop().time() + timeout
        return await self._reached(self._request(method, head, body, until))

    async def download(self, path: str, target: Path, *, silence: float = 60.0) -> str:
        """GET into a file; gives the SHA-256 of what came, in hexadecimal digits.

        `silence` is how many seconds may pass without a byte.

        A refusal is raised as its RequestError, a disk that takes no more as its OSError; what was
        written then is for the caller to remove.
        """
        head = self._head("GET", path, None, None)
        connection = await self._reached(self._replying(head, silence))
        try:
            if await connection.status(silence=silence) >= 300:
                raise refusal(await self._reached(connection.rest(silence=silence)))
            with _Written(target) as file:
                while piece := await self._reached(
                    connection.piece(silence=silence, least=PIECE_BYTES)
                ):
                    await asyncio.to_thread(file.write, piece)
                return file.digest()
        finally:
            self._pool.give_back(connection)

    async def upload(
        self,
        path: str,
        source: Path,
        headers: Mapping[str, str] | None = None,
        *,
        silence: float = 60.0,
    ) -> Reply:
        """PUT a file's content; a reply that comes before all is sent ends the sending.

        `silence` is how many seconds may pass in which nothing is taken, nor a byte comes. Raises
        OSError when the file cannot be read.
        """
        left = (await asyncio.to_thread(source.stat)).st_size
        head = self._head("PUT", path, left, {"Content-Type": BYTES, **(headers or {})})
        connection = await self._reached(self._pool.take())
        try:
            connection.begin(head, left)
            with await asyncio.to_thread(source.open, "rb") as file:
                while left:
                    piece = await asyncio.to_thread(file.read, min(left, CHUNK_BYTES))
                    left -= len(piece)
                    if not piece:
                        raise OSError(f"{source} became shorter while it was sent")
                    if not await self._reached(connection.send(piece, silence=silence)):
                        break
            return await self._reached(connection.rest(silence=silence))
        finally:
            self._pool.give_back(connection)

    async def _request(self, method: str, head: bytes, body: bytes, until: float) -> Reply:
        kept = self._pool.kept()
        if kept is not None:
            try:
                return await self._ask(kept, method, head, body, until)
            except Unanswered:
                if method not in _REPEATABLE:
                    raise
                self._pool.drop_idle()  # whoever closed one has closed them all
        async with asyncio.timeout_at(until):
            connection = await self._pool.take()
        return await self._ask(connection, method, head, body, until)

    async def _ask(
        self, connection: Connection, method: str, head: bytes, body: bytes, until: float
    ) -> Reply:
        try:
            return await connection.ask(head, body, bodiless=method == "HEAD", until=until)
        finally:
            self._pool.give_back(connection)

    async def _replying(self, head: bytes, silence: float) -> Connection:
        """One on which the reply to a GET has begun; to be given back."""
        while True:
            kept = self._pool.kept()
            connection = kept or await self._pool.take()
            try:
                connection.begin(head)
                await connection.status(silence=silence)
                return connection
            except BaseException as error:
                self._pool.give_back(connection)
                if kept is None or not isinstance(error, Unanswered):
                    raise
                self._pool.drop_idle()

    async def _reached(self, work: Awaitable[T]) -> T:
        """What comes of work on a connection. Raises ServerUnreachable when that is lost."""
        try:
            return await work
        except _LOST as error:
            raise unreachable(self.url, error) from error

    def _head(
        self, method: str, path: str, length: int | None, headers: Mapping[str, str] | None
    ) -> bytes:
        if _NOT_IN_A_PATH.search(path):  # ids in it are the server's, whatever they look like
            path = quote(path, safe=f"{PATH_LETTERS}?")
        text = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._headers}"
        if headers:
            text += "".join([_line(name, value) for name, value in headers.items()])
        if length is not None:
            text += f"Content-Length: {length}\r\n"
        return f"{text}\r\n".encode("latin-1")


class _Written:
    """A file, and the digest of what was written to it; to be written by another thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: io.FileIO | None = None
        self._seen = hashlib.sha256()

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, piece: bytes) -> None:
        """Write on; the first piece makes the file."""
        if self._file is None:
            self._file = self._path.open("wb", buffering=0)
        self._seen.update(piece)
        left = memoryview(piece)
        while left:
            left = left[self._file.write(left) :]

    def digest(self) -> str:
        """SHA-256 of all that was written, in hexadecimal digits; if that is nothing, of that."""
        if self._file is None:
            self.write(b"")
        return self._seen.hexdigest()


def _line(name: str, value: str) -> str:
    line = f"{name}: {value}"
    if _NOT_IN_A_LINE.search(line):
        raise ValueError(f"the header {name[:100]!r} holds a line break or another such character")
    return f"{line}\r\n"


def _own_headers(address: Address, token: str | None) -> str:
    text = _line("Host", address.authority) + _line("Accept-Encoding", "identity")
    if not token:
        return text
    try:
        return text + _line("Authorization", f"Bearer {token}")
    except ValueError:
        raise TaskServerError("the token holds a line break or another such character") from None


def _default_tls() -> ssl.SSLContext:
    tls = ssl.create_default_context()
    tls.set_alpn_protocols(["http/1.1"])
    return tls
