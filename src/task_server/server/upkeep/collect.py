"""Blobs that no task needs: first they are forgotten, then their content is deleted.

Content without an owner, left by a server that died between the two or by an upload that was cut
off, is found by its age.
"""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

from task_server.server.state import State

log = logging.getLogger(__name__)

PARTS = 16
"""Steps in which a look at all blobs is done."""
SETTLE_SECONDS = 15.0
"""With several servers: how long one's transaction may not see what another's decided."""
LISTING_SECONDS = 6 * 3600.0
"""Between two looks through all content."""
LISTED = 1000
"""Content looked up at a time."""
UPLOAD_SECONDS = 86400.0
"""How long an upload may take."""


class Collector:
    """Collects the blobs that nothing needs."""

    def __init__(self, state: State, *, settle_seconds: float | None = None) -> None:
        """`settle_seconds` None: as the database needs."""
        self._state = state
        self._store = state.store
        if settle_seconds is None:
            has_one_server = state.settings.database_url.startswith("sqlite:")
            settle_seconds = 0.0 if has_one_server else SETTLE_SECONDS
        self._settle_seconds = settle_seconds
        self._listed_at = asyncio.get_running_loop().time()

    async def collect(self) -> None:
        """Forget and delete what nothing needs; now and then look through all content."""
        loop = asyncio.get_running_loop()
        await self.retire()
        if loop.time() - self._listed_at >= LISTING_SECONDS:
            await self.retire_ownerless()
            self._listed_at = loop.time()
        await self.delete()

    async def retire(self) -> None:
        """Forget blobs that nothing has needed or named for as long as they are kept."""
        state = self._state
        before = state.clock() - state.settings.keep_blob_seconds
        bounds = [f"sha256:{part:x}" for part in range(PARTS)] + ["sha256:g"]
        for start, end in pairwise(bounds):
            await self._store.retire_blobs(start, end, before=before, now=state.clock())
            await asyncio.sleep(0)

    async def retire_ownerless(self) -> None:
        """Have content deleted that nobody has and that was not stored lately."""
        state = self._state
        before = state.clock() - state.settings.keep_blob_seconds
        old: list[str] = []
        async for blob in state.blobs.listed():
            if blob.stored_at <= before:
                old.append(blob.name)
            if len(old) == LISTED:
                await self._retire_some(old)
                old = []
        await self._retire_some(old)

    async def _retire_some(self, names: list[str]) -> None:
        if not names:
            return
        ownerless = set(names) - await self._store.known_blobs(names)
        if ownerless:
            await self._store.retire_content(ownerless, now=self._state.clock())

    async def delete(self) -> None:
        """Delete the content of what was forgotten, so long ago that all servers see it."""
        clock, settle = self._state.clock, self._settle_seconds
        total = 0
        while names := await self._store.deletable_blobs(before=clock() - settle):
            for name in names:
                await self._state.blobs.delete(name)
            await self._store.deleted_blobs(names, at=clock() + settle)
            total += len(names)
        await self._store.forget_deletions(before=clock() - UPLOAD_SECONDS)
        if total:
            log.info("deleted %d blobs", total)
