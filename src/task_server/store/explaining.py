"""The part of the contract about why tasks wait, in the SQL that both databases share."""

from __future__ import annotations

from task_server.store.kinds import KindSpec
from task_server.store.records import standings
from task_server.store.records.sql import Lends
from task_server.store.records.standings import Place


class Explaining:
    """Mixed into the stores."""

    async def place(self: Lends, number: int, *, among_all: bool = False) -> Place | None:
        """See `Store.place`."""
        return await self.read(lambda rows: standings.place(rows, number, among_all=among_all))

    async def held(self: Lends) -> list[tuple[int, KindSpec, float]]:
        """See `Store.held`."""
        return await self.read(standings.held)

    async def broken(self: Lends, environment: str, *, now: float) -> set[int]:
        """See `Store.broken`."""
        return await self.read(lambda rows: standings.broken(rows, environment, now=now))
