"""The one way out of a network with nothing in it: a proxy of HTTP that leads to indexes alone.

Whoever is behind it has no names to look up and nothing to connect to but this. It is asked to
CONNECT to a host and port, as proxies are for https, or to get a URL of http.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import logging
import re
import socket
import ssl
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from msgspec import Struct

from task_server.environments import uv as uv_text
from task_server.machine import program
from task_server.policy import Place, parse_hosts, place_of
from task_server.settings import WorkerSettings
from task_server.worker.child import LOOPBACK, WAY_PORT
from task_server.worker.indexes import Indexes

log = logging.getLogger(__name__)

HEAD_BYTES: Final = 16 << 10
HEAD_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 30.0
IDLE_SECONDS: Final = 300.0
CONNECTIONS: Final = 64
"""Of one network at once; uv uses up to 50."""
PIECE_BYTES: Final = 256 << 10
TOLD: Final = 100
"""So many refused places are told in the log."""

_END: Final = b"\r\n\r\n"
_REQUEST: Final = re.compile(r"(CONNECT|GET|HEAD) ([!-~]{1,8000}) HTTP/1\.[01]")
_DROPPED: Final = re.compile(r"(?:host|connection|keep-alive|proxy-[\w-]+|te|upgrade)\s*:", re.I)
_HAS_BODY: Final = re.compile(r"(?:content-length|transfer-encoding)\s*:", re.I)

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Refusal(Exception):
    """A request that is answered with this status."""


class Asked(Struct, frozen=True):
    """What a request wants: a place, and what is to be said there first."""

    place: Place
    head: bytes
    """Empty for a tunnel, through which anything may be said."""


class Relay:
    """Leads to indexes; by the HTTPS_PROXY of `environ` where there is one, and a NO_PROXY."""

    def __init__(self, indexes: Indexes, environ: Mapping[str, str]) -> None:
        self._indexes = indexes
        self._environ = environ
        self._told: set[Place] = set()
        self._refused: list[Place] = []

    def note(self, names: Sequence[str]) -> None:
        """Packages that are about to be fetched."""
        self._indexes.note(names)

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Take what comes to a listening socket, which closes with the server."""
        meet = functools.partial(self._meet, set())
        return await asyncio.start_server(meet, sock=listener, limit=HEAD_BYTES)

    def take_refused(self) -> list[str]:
        """The places that were asked for and refused, since this was last called."""
        refused, self._refused = self._refused, []
        return [f"{host}:{port}" for host, port in dict.fromkeys(refused)]

    async def _meet(
        self,
        here: set[object],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        here.add(writer)
        try:
            if len(here) <= CONNECTIONS:
                with contextlib.suppress(OSError, TimeoutError):
                    await self._pass_on(reader, writer)
        finally:
            here.discard(writer)
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            asked = await self._asked(reader)
            there = await self._reach(asked)
        except Refusal as refusal:
            writer.write(f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n".encode())
            writer.write(b"Connection: close\r\n\r\n")
            await writer.drain()
            return
        try:
            there[1].write(asked.head)
            if asked.head:
                await _pump(there[0], writer)  # what follows the request is nobody's
            else:
                writer.write(b"HTTP/1.1 200 Connection established" + _END)
                await _tunnel((reader, writer), there)
        finally:
            there[1].close()

    async def _asked(self, reader: asyncio.StreamReader) -> Asked:
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                head = await reader.readuntil(_END)
        except (TimeoutError, asyncio.IncompleteReadError):
            raise Refusal("408 Request Timeout") from None
        except asyncio.LimitOverrunError:
            raise Refusal("431 Request Header Fields Too Large") from None
        asked = parse(head)
        if not await self._indexes.have(asked.place):
            self._refuse(asked.place)
        return asked

    def _refuse(self, place: Place) -> None:
        if len(self._refused) < TOLD:
            self._refused.append(place)
        if place not in self._told and len(self._told) < TOLD:
            self._told.add(place)
            log.warning("nobody is let through to %s:%d, which is no index's", *place)
        raise Refusal("403 This is no place of a package index")

    async def _reach(self, asked: Asked) -> Streams:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                proxy = None if asked.head else self._proxy_to(asked.place)
                if proxy is None:
                    return await asyncio.open_connection(*asked.place)
                return await _through(proxy, asked.place)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            raise Refusal("502 The index cannot be reached") from None

    def _proxy_to(self, place: Place) -> SplitResult | None:
        url = self._environ.get("https_proxy") or self._environ.get("HTTPS_PROXY")
        if not url or _is_exempt(place[0], self._environ):
            return None
        return urlsplit(url if "://" in url else f"http://{url}")


def relay_of(settings: WorkerSettings, environ: Mapping[str, str]) -> Relay:
    """The one to the indexes that a worker's settings and its variables name."""
    indexes = Indexes(
        program("uv"),
        uv_text.process_environment(environ),
        private=settings.private_index,
        more=parse_hosts(settings.index_hosts),
    )
    return Relay(indexes, environ)


def variables() -> dict[str, str]:
    """What tells programs in a network of their own where the way out is."""
    url = f"http://{LOOPBACK}:{WAY_PORT}"
    proxies = ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")
    return {**dict.fromkeys(proxies, url), "NO_PROXY": "", "no_proxy": ""}


def parse(head: bytes) -> Asked:
    """Read a request to a proxy. Raises Refusal."""
    try:
        first, *fields = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
    except UnicodeDecodeError:
        raise Refusal("400 Bad Request") from None
    request = _REQUEST.fullmatch(first)
    if request is None:
        raise Refusal("405 Method Not Allowed")
    method, target = request.groups()
    is_tunnel = method == "CONNECT"
    place = place_of(f"https://{target}" if is_tunnel else target)
    if place is None or not (is_tunnel or target.startswith("http://")):
        raise Refusal("400 Bad Request")
    if is_tunnel:
        return Asked(place, b"")
    if any(map(_HAS_BODY.match, fields)) or "\n" in "".join(fields):
        raise Refusal("400 Bad Request")
    return Asked(place, _head(method, urlsplit(target), fields))


def _head(method: str, target: SplitResult, fields: list[str]) -> bytes:
    path = target._replace(scheme="", netloc="", fragment="").geturl() or "/"
    kept = [each for each in fields if not _DROPPED.match(each)]
    host = target.netloc.rpartition("@")[2]
    lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", "Connection: close", *kept)
    return "\r\n".join(lines).encode() + _END


def _is_exempt(host: str, environ: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names a host, or a domain that it is in."""
    names = (environ.get("no_proxy") or environ.get("NO_PROXY") or "").lower().split(",")
    bare = [name.strip().removeprefix("*").removeprefix(".") for name in names]
    if any(name.strip() == "*" for name in names):
        return True
    return any(name and (host == name or host.endswith(f".{name}")) for name in bare)


async def _through(proxy: SplitResult, place: Place) -> Streams:
    """A tunnel of another proxy. Raises OSError."""
    if proxy.scheme not in ("http", "https") or not proxy.hostname:
        raise OSError("the proxy that HTTPS_PROXY names is none of http or https")
    is_secret = proxy.scheme == "https"
    reader, writer = await asyncio.open_connection(
        proxy.hostname,
        proxy.port or (443 if is_secret else 80),
        ssl=ssl.create_default_context() if is_secret else None,
        limit=HEAD_BYTES,
    )
    try:
        name = f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"
        lines = [f"CONNECT {name} HTTP/1.1", f"Host: {name}"]
        if proxy.username:
            user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(user).decode()}")
        writer.write("\r\n".join(lines).encode() + _END)
        answer = await reader.readuntil(_END)
        if not re.match(rb"HTTP/1\.[01] 2\d\d ", answer):
            raise OSError("the proxy that HTTPS_PROXY names refused")
    except BaseException:
        writer.close()
        raise
    return reader, writer


async def _tunnel(one: Streams, other: Streams) -> None:
    """Carry bytes both ways, until the other side has no more."""
    up = asyncio.ensure_future(_pump(one[0], other[1]))
    try:
        await _pump(other[0], one[1])
    finally:
        up.cancel()
        with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
            await up


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            piece = await reader.read(PIECE_BYTES)
            writer.write(piece)
            await writer.drain()
        if not piece:
            if writer.can_write_eof():
                writer.write_eof()
            return
