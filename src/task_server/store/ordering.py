"""The part of the contract about orders, in the SQL that both databases share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from task_server.store.records import orders
from task_server.store.records.orders import EnvironmentRow, OrderReport, OrderRow, OrderSpec
from task_server.store.records.sql import Lends


class Ordering:
    """Mixed into the stores."""

    async def order(self: Lends, spec: OrderSpec, *, now: float) -> None:
        """Want an environment on workers, or want it again: then each is to look at it anew."""
        await self.write(lambda rows: orders.order(rows, spec, now=now))

    async def orders(self: Lends, now: float) -> list[OrderRow]:
        """What is wanted now, oldest first."""
        return await self.look(lambda rows: orders.listed(rows, now))

    async def take_back(self: Lends, environments: Collection[str]) -> int:
        """These environments (digests) are wanted no longer; how many orders that ends."""
        return await self.write(lambda rows: orders.take_back(rows, environments))

    async def note_orders(
        self: Lends, worker: str, reports: Sequence[OrderReport], *, now: float
    ) -> None:
        """How far a worker is with orders; older rounds, and what is no order, are ignored."""
        await self.write(lambda rows: orders.note(rows, worker, reports, now=now))

    async def order_reports(self: Lends, numbers: Collection[int]) -> list[tuple[str, OrderReport]]:
        """What workers (ids) told of these orders last."""
        return await self.read(lambda rows: orders.reports(rows, numbers))

    async def environments(self: Lends, limit: int) -> list[EnvironmentRow]:
        """Locked environments, newest first."""
        return await self.read(lambda rows: orders.environments(rows, limit))
