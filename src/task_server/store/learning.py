"""The part of the contract about learning, in the SQL that both databases share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from task_server.store.records import learning
from task_server.store.records.learning import EndedAttempt
from task_server.store.records.sql import Lends


class Learning:
    """Mixed into the stores."""

    async def last_places(self: Lends) -> dict[int, int]:
        """See `Store.last_places`."""
        return await self.read(learning.last_places)

    async def places_of(
        self: Lends,
        server: int,
        *,
        after: int,
        until: int,
        functions: Collection[int],
        limit: int,
    ) -> list[int]:
        """See `Store.places_of`."""
        return await self.read(
            lambda rows: learning.places_of(rows, server, after, until, functions, limit)
        )

    async def ended_attempts(self: Lends, server: int, places: Sequence[int]) -> list[EndedAttempt]:
        """See `Store.ended_attempts`."""
        return await self.read(lambda rows: learning.ended(rows, server, places))
