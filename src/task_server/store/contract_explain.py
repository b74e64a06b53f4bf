"""The verbs of the store that say what decides when a task starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from task_server.store.kinds import KindSpec
    from task_server.store.records.standings import Place


class ExplainStore(Protocol):
    """One database of tasks, as those who ask why one waits see it."""

    def charged(self) -> Mapping[int, float]:
        """Seconds of work charged to each owner, as far as this server knows; it does not wait."""

    def awaited_build(self, environment: str | None, *, now: float) -> float | None:
        """Seconds that an environment takes to build, while its tasks wait for who has it.

        None: they do not. As far as this server knows; it does not wait.
        """

    async def place(self, number: int, *, among_all: bool = False) -> Place | None:
        """Where a task stands among its owner's, or `among_all`; None when it is gone."""

    async def held(self) -> list[tuple[int, KindSpec, float]]:
        """Worker, kind and start of what runs, of some thousands at most."""

    async def broken(self, environment: str, *, now: float) -> set[int]:
        """The workers that could not build an environment (digest) of late."""
