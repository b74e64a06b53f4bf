"""Which names each owner has uploaded: theirs come from this server and from nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from hashlib import blake2b

from msgspec import Struct

FRESH_SECONDS = 2.0
"""How long what was read counts where other servers may change it."""


class OwnUploads(Struct, frozen=True):
    """The uploads of one owner."""

    owner: int
    names: frozenset[str]
    generation: str
    """Another for every other set of wheels."""

    def key_of(self, names: set[str]) -> str:
        """What tells requests of this owner for these packages from equal ones of others.

        One that names an upload is resolved anew once another wheel is uploaded; for the others
        only whose it is counts.
        """
        generation = self.generation if names & self.names else "-"
        return f"{self.owner} {generation}"


class Uploads:
    """What is known of all owners, read anew when it may have changed.

    `waits_for_others`: other servers share the database. A change is told only when it must be
    known to all of them: each reads again after FRESH_SECONDS.
    """

    def __init__(
        self,
        mark: Callable[[], Awaitable[tuple[int, int]]],
        contents: Callable[[], Awaitable[list[tuple[int, str, str, str]]]],
        *,
        waits_for_others: bool,
    ) -> None:
        self._mark = mark
        self._contents = contents
        self._waits_for_others = waits_for_others
        self._known: dict[int, OwnUploads] = {}
        self._seen: tuple[int, int] | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def of(self, owner: int) -> OwnUploads | None:
        """The uploads of an owner; None without any."""
        if not self._is_fresh():
            async with self._reading:
                if not self._is_fresh():
                    await self._read()
        return self._known.get(owner)

    async def changed(self) -> None:
        """A wheel came or went: wait until every server goes by it."""
        async with self._reading:
            await self._read()
        if self._waits_for_others:
            await asyncio.sleep(FRESH_SECONDS)

    def _is_fresh(self) -> bool:
        if self._seen is None:
            return False
        return not self._waits_for_others or time.monotonic() - self._read_at < FRESH_SECONDS

    async def _read(self) -> None:
        asked_at = time.monotonic()
        mark = await self._mark()
        if mark != self._seen:
            self._known = _by_owner(await self._contents())
            self._seen = mark
        self._read_at = asked_at


def _by_owner(contents: list[tuple[int, str, str, str]]) -> dict[int, OwnUploads]:
    names: dict[int, set[str]] = {}
    digests: dict[int, blake2b] = {}
    for owner, name, filename, digest in sorted(contents):
        names.setdefault(owner, set()).add(name)
        hashed = digests.setdefault(owner, blake2b(digest_size=8))
        hashed.update(f"{filename} {digest}\n".encode())
    return {
        owner: OwnUploads(owner, frozenset(names[owner]), digests[owner].hexdigest())
        for owner in names
    }
