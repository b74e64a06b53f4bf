"""The verbs of the store that keep and remove what has ended: retention, deleting, blobs.

Those that take `now` may be called at any time by any server; they change nothing that is not due.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from task_server.store.records.retention import Keep, Pass
    from task_server.store.rows import PastOutcome


class UpkeepStore(Protocol):
    """One database of tasks, as its upkeep and those who delete see it."""

    server: int
    """This server's number in the rows that are its own."""

    async def leads(self) -> bool:
        """Whether upkeep that one server is enough for is this server's now."""

    async def stored_bytes(self) -> int:
        """What the database and the blobs of its tasks take, nearly."""

    async def forget_unused(self, *, keep_seconds: float) -> int:
        """Remove kinds, lanes, requests and functions that no task needs; how many rows.

        Statistics of functions are kept for `keep_seconds` longer. 0: there is nothing more.
        """

    async def give_back_space(self) -> bool:
        """Give some of the room that purged tasks left back; True when there is more."""

    # ---- one task

    async def note_read(self, numbers: Iterable[int], *, now: float) -> None:
        """The outcomes of these tasks have been given out."""

    async def delete(self, owner: int | None, identifier: bytes) -> int:
        """T14 by the owner (None: an admin); a status: 200, 404, or 409 for an open task."""

    async def is_gone(self, identifier: bytes, owner: int | None) -> bool:
        """Whether this owner (None: anybody) had a task of that id: deleted or past its time."""

    async def past_outcomes(self, number: int) -> list[PastOutcome]:
        """What a task came to before manual retries, first generation first."""

    async def next_position(self, batch: int, start: int) -> int | None:
        """The first position of a batch from `start` on whose task is there still."""

    # ---- retention

    async def begin_pass(self, keep: Keep, *, now: float) -> Pass:
        """A pass over all ended tasks, in search of what is due."""

    async def find_due(self, keep: Keep, at: Pass, *, now: float) -> tuple[list[int], Pass | None]:
        """What is due in the next piece of a pass, and the pass behind it; None: its end."""

    async def purge(self, numbers: Sequence[int], keep: Keep, *, now: float) -> int:
        """T14: remove what is due of these tasks; how many that were."""

    async def remove_leftovers(self, keep: Keep, *, now: float) -> int:
        """Remove some of what tasks left behind; how many rows, 0 when there is nothing more."""

    # ---- blobs

    async def keep_blob(
        self, name: str, owner: int, *, size: int, now: float, began: float | None = None
    ) -> None:
        """An owner has a blob, whose content was stored since `began` (None: `now`).

        Raises Unavailable when that content may have been deleted again.
        """

    async def has_blob(self, name: str, owner: int) -> bool:
        """Whether an owner has a blob."""

    async def renew_blob(self, name: str, *, now: float) -> None:
        """Somebody counts on a blob: it is kept for a while from now on."""

    async def known_blobs(self, names: Collection[str]) -> set[str]:
        """Which of these blobs are there, whoever has them."""

    async def retire_blobs(self, start: str, end: str, *, before: float, now: float) -> int:
        """Forget blobs that nothing needs and that were not named since `before`; how many.

        Of those with names from `start` up to `end`. Their content is to be deleted after that.
        """

    async def retire_content(self, names: Collection[str], *, now: float) -> None:
        """Content that nobody has is to be deleted."""

    async def deletable_blobs(self, *, before: float) -> list[str]:
        """Names whose content is to be deleted now, of those decided on until `before`."""

    async def deleted_blobs(self, names: Collection[str], *, at: float) -> None:
        """The content of these was deleted, until `at`."""

    async def forget_deletions(self, *, before: float) -> None:
        """Deletions are of no interest to uploads that begin after them."""
