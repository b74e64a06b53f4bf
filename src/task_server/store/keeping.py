"""The part of the contract that keeps and removes, in the SQL that both databases share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from task_server.store.records import batches, blobs, history, leftovers, orders, retention
from task_server.store.records.retention import Keep, Pass
from task_server.store.records.sql import Lends, Rows
from task_server.store.rows import PastOutcome


class Numbered(Lends, Protocol):
    """A store that lends connections, and the number that its own rows bear."""

    server: int


class Keeping:
    """Mixed into the stores."""

    server: int

    async def note_read(self: Lends, numbers: Iterable[int], *, now: float) -> None:
        """The outcomes of these tasks have been given out."""
        await self.write(lambda rows: retention.note_read(rows, numbers, now=now))

    async def delete(self: Numbered, owner: int | None, identifier: bytes) -> int:
        """T14 by the owner (None: an admin); a status: 200, 404, or 409 for an open task."""
        return await self.write(
            lambda rows: retention.delete(rows, identifier, owner, server=self.server)
        )

    async def is_gone(self: Lends, identifier: bytes, owner: int | None) -> bool:
        """Whether this owner (None: anybody) had a task of that id: deleted or past its time."""
        return await self.look(lambda rows: retention.is_gone(rows, identifier, owner))

    async def past_outcomes(self: Lends, number: int) -> list[PastOutcome]:
        """What a task came to before manual retries, first generation first."""
        return await self.read(lambda rows: history.listed(rows, number))

    async def next_position(self: Lends, batch: int, start: int) -> int | None:
        """The first position of a batch from `start` on whose task is there still."""
        return await self.look(lambda rows: batches.next_position(rows, batch, start))

    # ---- retention

    async def begin_pass(self: Lends, keep: Keep, *, now: float) -> Pass:
        """A pass over all ended tasks, in search of what is due."""
        return await self.read(lambda rows: retention.begin_pass(rows, keep, now=now))

    async def find_due(
        self: Lends, keep: Keep, at: Pass, *, now: float
    ) -> tuple[list[int], Pass | None]:
        """What is due in the next piece of a pass, and the pass behind it; None: its end."""
        return await self.read(lambda rows: retention.find_due(rows, keep, at, now=now))

    async def purge(self: Numbered, numbers: Sequence[int], keep: Keep, *, now: float) -> int:
        """T14: remove what is due of these tasks; how many that were."""
        return await self.write(
            lambda rows: retention.purge(rows, numbers, keep, now=now, server=self.server)
        )

    async def remove_leftovers(self: Lends, keep: Keep, *, now: float) -> int:
        """Remove some of what tasks left behind; how many rows, 0 when there is nothing more."""
        empty = await self.read(lambda rows: leftovers.empty_batches(rows, keep, now=now))

        async def work(rows: Rows) -> int:
            return (
                await leftovers.remove_batches(rows, empty)
                + await leftovers.remove_keys(rows, now=now)
                + await leftovers.remove_tombstones(rows, keep, now=now)
                + await leftovers.remove_sessions(rows, keep, now=now)
                + await leftovers.remove_workers(rows, keep, now=now)
                + await leftovers.remove_refreshes(rows, keep, now=now)
                + await orders.forget(rows, now=now)
            )

        return await self.write(work)

    # ---- blobs

    async def renew_blob(self: Lends, name: str, *, now: float) -> None:
        """Somebody counts on a blob: it is kept for a while from now on."""
        await self.write(lambda rows: blobs.renew(rows, [name], now=now))

    async def known_blobs(self: Lends, names: Collection[str]) -> set[str]:
        """Which of these blobs are there, whoever has them."""
        return await self.read(lambda rows: blobs.known(rows, names))

    async def retire_blobs(self: Lends, start: str, end: str, *, before: float, now: float) -> int:
        """Forget blobs that nothing needs and that were not named since `before`; how many.

        Of those with names from `start` up to `end`. Their content is to be deleted after that.
        """
        names = await self.read(lambda rows: blobs.unneeded(rows, start, end, before=before))
        if names:
            await self.write(lambda rows: blobs.retire(rows, names, before=before, now=now))
        return len(names)

    async def retire_content(self: Lends, names: Collection[str], *, now: float) -> None:
        """Content that nobody has is to be deleted."""
        await self.write(lambda rows: blobs.begin_deletion(rows, names, now=now))

    async def deletable_blobs(self: Lends, *, before: float) -> list[str]:
        """Names whose content is to be deleted now, of those decided on until `before`."""
        return await self.write(lambda rows: blobs.deletable(rows, before=before))

    async def deleted_blobs(self: Lends, names: Collection[str], *, at: float) -> None:
        """The content of these was deleted, until `at`."""
        await self.write(lambda rows: blobs.end_deletion(rows, names, at=at))

    async def forget_deletions(self: Lends, *, before: float) -> None:
        """Deletions are of no interest to uploads that begin after them."""
        await self.write(lambda rows: blobs.forget_deletions(rows, before=before))
