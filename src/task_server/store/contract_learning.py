"""The verbs of the store that the estimator's teacher needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from task_server.store.records.learning import EndedAttempt


class LearningStore(Protocol):
    """One database of tasks, as who learns from their run times sees it."""

    async def last_places(self) -> dict[int, int]:
        """Server -> place of the task that it ended last; the places of one appear in order."""

    async def places_of(
        self, server: int, *, after: int, until: int, functions: Collection[int], limit: int
    ) -> list[int]:
        """Places beyond `after`, up to `until`, of ended tasks of these functions, ascending.

        Never more than `limit`: then there may be others behind the last one.
        """

    async def ended_attempts(self, server: int, places: Sequence[int]) -> list[EndedAttempt]:
        """What can be learned from at these places of a server, in ascending order.

        Tasks whose retention is over, that were cancelled or never ran, are not among them.
        """
