"""What tasks need beside their arguments: locks, blobs, functions by value. Fetched by digest."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from task_server.client.aio import AsyncTransport
from task_server.client.requests import refusal
from task_server.environments.lock import Pin
from task_server.errors import RequestError, ServerUnreachable
from task_server.worker.blob_files import BlobFiles

_NAMED = re.compile(rb'"\$blob"\s*:\s*"(sha256:[0-9a-f]{64})"')
_TRIES = 5
_SIMPLE = "application/vnd.pypi.simple.v1+json"


class _File(Struct):
    filename: str
    hashes: dict[str, str]


class _Project(Struct):
    """A page of a simple index (PEP 691)."""

    files: list[_File]


class Resources:
    """Fetches from one server; blobs are kept as files named by their digest."""

    def __init__(self, transport: AsyncTransport, files: BlobFiles) -> None:
        self._transport = transport
        self._files = files
        self._fetching: dict[str, asyncio.Future[Path]] = {}

    async def lock(self, digest: str) -> str:
        """The text of a lock."""
        reply = await self._transport.request("GET", f"/v1/environments/{digest}/lock")
        if reply.status != 200:
            raise refusal(reply)
        return reply.body.decode()

    async def blob(self, name: str) -> Path:
        """The file of a blob. Raises RequestError when the server does not have it."""
        path = self._files.find(name)
        if path is not None:
            return path
        fetching = self._fetching.get(name)
        if fetching is None:
            fetching = asyncio.ensure_future(self._fetch(name))
            self._fetching[name] = fetching
            fetching.add_done_callback(lambda _: self._fetching.pop(name, None))
        return await asyncio.shield(fetching)

    async def _fetch(self, name: str) -> Path:
        descriptor, partial = tempfile.mkstemp(dir=self._files.folder, suffix=".partial")
        os.close(descriptor)
        try:
            if await self._download(name, Path(partial)) != name[7:]:
                raise RequestError(f"blob {name} came with another content")
            return self._files.keep(Path(partial), name)
        except BaseException:
            _discard(partial)
            raise

    async def _download(self, name: str, target: Path) -> str:
        """The digest of what came."""
        for _ in range(_TRIES - 1):
            try:
                return await self._transport.download(f"/v1/blobs/{name}", target)
            except ServerUnreachable:
                await asyncio.sleep(1.0)
        return await self._transport.download(f"/v1/blobs/{name}", target)

    async def wheels(self, pins: Sequence[Pin]) -> dict[str, Path]:
        """File name and file of each uploaded wheel that these pins stand for.

        One that was removed from the server is left out.
        """
        found = {}
        for pin in pins:
            reply = await self._transport.request(
                "GET", f"/v1/packages/simple/{pin.name}/", headers={"Accept": _SIMPLE}
            )
            if reply.status == 404:
                continue
            if reply.status != 200:
                raise refusal(reply)
            for file in msgspec.json.decode(reply.body, type=_Project).files:
                if f"sha256:{file.hashes.get('sha256')}" in pin.hashes:
                    found[_plain(file.filename)] = await self.blob(
                        f"sha256:{file.hashes['sha256']}"
                    )
        return found

    async def upload(self, name: str, data: bytes) -> None:
        """Store a blob at the server, however long that takes."""
        wait = 0.5
        while True:
            try:
                reply = await self._transport.request(
                    "PUT",
                    f"/v1/blobs/{name}",
                    data,
                    {"Content-Type": "application/octet-stream"},
                    timeout=30 + len(data) / 1e6,
                )
                if reply.status < 500:
                    break
            except ServerUnreachable:
                pass
            await asyncio.sleep(wait)
            wait = min(wait * 2, 10.0)
        if reply.status >= 400:
            raise refusal(reply)


def blobs_in(payload: bytes) -> set[str]:
    """The names of the blobs that JSON arguments name."""
    if b'"$blob"' not in payload:
        return set()
    return {found.decode() for found in _NAMED.findall(payload)}


def _plain(filename: str) -> str:
    if "/" in filename or filename.startswith("."):
        raise RequestError(f"the server names a file {filename[:100]!r}")
    return filename


def _discard(partial: str) -> None:
    Path(partial).unlink(missing_ok=True)
