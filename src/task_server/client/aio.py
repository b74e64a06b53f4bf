"""Requests over aiohttp, for the worker's agent."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import TracebackType

import aiohttp

from task_server.client.requests import Reply, refusal
from task_server.errors import ServerUnreachable

CONNECT_SECONDS = 10.0
IDLE_SECONDS = 60.0
"""A connection unused for longer is not used again: servers close theirs after 75 s."""
CHUNK_BYTES = 256 * 1024
_LOST = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS})


class AsyncTransport:
    """Kept connections to one server; an async context manager, to be used in one event loop."""

    def __init__(self, url: str, token: str | None = None, *, connections: int = 16) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connections = connections
        self._session: aiohttp.ClientSession | None = None

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
        """Close all connections; requests under way fail."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,  # noqa: ASYNC109  (aiohttp's own bound closes the connection too)
    ) -> Reply:
        """Send and read the whole reply, whatever its status, within `timeout` seconds.

        Raises ServerUnreachable when no whole reply came.
        """
        within = aiohttp.ClientTimeout(total=timeout, sock_connect=min(CONNECT_SECONDS, timeout))
        try:
            async with self._open().request(
                method, self.url + path, data=body, headers=headers, timeout=within
            ) as reply:
                return Reply(reply.status, _lower(reply.headers), await reply.read())
        except _LOST as error:
            raise self._unreachable(error) from error

    async def download(self, path: str, target: Path, *, silence: float = 60.0) -> None:
        """GET into a file; `silence` is how many seconds may pass without a byte.

        A refusal is raised as its RequestError, a disk that takes no more as its OSError; what was
        written then is for the caller to remove.
        """
        try:
            async with self._open().get(self.url + path, timeout=_unbounded(silence)) as reply:
                if reply.status >= 400:
                    body = await reply.read()
                    raise refusal(Reply(reply.status, _lower(reply.headers), body))
                await _write(target, reply.content.iter_chunked(CHUNK_BYTES))
        except _LOST as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            raise self._unreachable(error) from error

    async def upload(
        self,
        path: str,
        source: Path,
        headers: Mapping[str, str] | None = None,
        *,
        silence: float = 60.0,
    ) -> Reply:
        """PUT a file's content."""
        size = (await asyncio.to_thread(source.stat)).st_size
        sent = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            **(headers or {}),
        }
        try:
            async with self._open().put(
                self.url + path, data=_read(source), headers=sent, timeout=_unbounded(silence)
            ) as reply:
                return Reply(reply.status, _lower(reply.headers), await reply.read())
        except _LOST as error:
            raise self._unreachable(error) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=IDLE_SECONDS
            )
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)
        return self._session

    def _unreachable(self, error: BaseException) -> ServerUnreachable:
        return ServerUnreachable(f"lost the server at {self.url}: {error or type(error).__name__}")


def _unbounded(silence: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=silence)


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


async def _read(source: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(source.open, "rb")
    with file:
        while piece := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield piece


async def _write(target: Path, pieces: AsyncIterator[bytes]) -> None:
    file = await asyncio.to_thread(target.open, "wb")
    with file:
        async for piece in pieces:
            await asyncio.to_thread(file.write, piece)
