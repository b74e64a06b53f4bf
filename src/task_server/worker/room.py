"""Keeps what environments and blobs take on disk below their limits."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from task_server.worker.blob_files import BlobFiles
from task_server.worker.disk import Disk
from task_server.worker.environments import BuildFailed, Environments
from task_server.worker.eviction import Evicted

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 60.0
AGAIN_SECONDS: Final = 10.0
"""While they take more than they may, because those that are left are in use."""
SHARE: Final = 4
"""Without a limit, environments take no more than this part of the disk."""
MIB: Final = 1 << 20


class Room:
    """Removes environments used longest ago when there are too many, and all unused if asked.

    `let_go(digest)` says whether one may go; then nothing uses it any more.
    """

    def __init__(
        self,
        environments: Environments,
        blobs: BlobFiles,
        directory: Path,
        disk: Disk,
        *,
        limit_bytes: int | None,
        let_go: Callable[[str], bool],
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._environments = environments
        self._blobs = blobs
        self._directory = directory
        self._disk = disk
        self._limit_bytes = limit_bytes
        self._let_go = let_go
        self._look_seconds = look_seconds
        self._is_grown = asyncio.Event()
        self._is_grown.set()
        self._one_at_a_time = asyncio.Lock()
        environments.on_built = self._is_grown.set

    async def keep(self) -> None:
        """Keep the limit until cancelled. A disk that is full is cleared of all that is unused."""
        is_over = False
        while True:
            try:
                async with asyncio.timeout(AGAIN_SECONDS if is_over else self._look_seconds):
                    await self._is_grown.wait()
            except TimeoutError:
                if not self._disk.has_room():
                    self._blobs.make_room(0)
                    await self._make_room(0)
                elif not is_over:
                    continue
            self._is_grown.clear()
            limit = self._limit()
            evicted = await self._make_room(limit)
            is_over = evicted.left_bytes > limit  # what is in use now may go later

    async def collect(self) -> str:
        """Remove all environments that are neither in use nor wanted; says what went."""
        evicted = await self._make_room(0)
        count = len(evicted.digests)
        what = "1 environment" if count == 1 else f"{count} environments"
        return f"removed {what}, {evicted.freed_bytes / MIB:.1f} MiB"

    async def _make_room(self, limit_bytes: int) -> Evicted:
        async with self._one_at_a_time:
            try:
                evicted = await self._environments.make_room(limit_bytes, let_go=self._let_go)
            except BuildFailed as error:
                log.warning("environments cannot be removed: %s", error)
                return Evicted([], 0, 0)
        if evicted.digests:
            freed = evicted.freed_bytes / MIB
            log.info("removed %d environments, %.1f MiB", len(evicted.digests), freed)
        return evicted

    def _limit(self) -> int:
        if self._limit_bytes is not None:
            return self._limit_bytes
        return shutil.disk_usage(self._directory).total // SHARE
