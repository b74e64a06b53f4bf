"""The verbs of the store about environments that workers are to have ready ahead of their tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from task_server.store.records.orders import EnvironmentRow, OrderReport, OrderRow, OrderSpec


class OrderStore(Protocol):
    """One database of tasks, as those who prepare environments see it."""

    async def order(self, spec: OrderSpec, *, now: float) -> None:
        """Want an environment on workers, or want it again: then each is to look at it anew."""

    async def orders(self, now: float) -> list[OrderRow]:
        """What is wanted now, oldest first."""

    async def take_back(self, environments: Collection[str]) -> int:
        """These environments (digests) are wanted no longer; how many orders that ends."""

    async def note_orders(self, worker: str, reports: Sequence[OrderReport], *, now: float) -> None:
        """How far a worker is with orders; older rounds, and what is no order, are ignored."""

    async def order_reports(self, numbers: Collection[int]) -> list[tuple[str, OrderReport]]:
        """What workers (ids) told of these orders last."""

    async def environments(self, limit: int) -> list[EnvironmentRow]:
        """Locked environments, newest first."""
