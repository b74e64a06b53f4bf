"""The part of the contract about learning, in the SQL that both databases share."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from task_server.store.records import calls, learning, models, totals
from task_server.store.records.calls import OpenCall, WaitingCall
from task_server.store.records.learning import EndedAttempt
from task_server.store.records.models import FunctionModel, ModelChange, ModelHead
from task_server.store.records.sql import Lends
from task_server.store.records.totals import JudgedTotal, OpenTotal, ToldTotal


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

    async def waiting_calls(self: Lends, batch: int, positions: Collection[int]) -> list[OpenCall]:
        """See `Store.waiting_calls`."""
        return await self.read(lambda rows: calls.waiting_at(rows, batch, positions))

    async def running_calls(self: Lends, batch: int) -> list[OpenCall]:
        """See `Store.running_calls`."""
        return await self.read(lambda rows: calls.running_of(rows, batch))

    async def waiting_in(
        self: Lends, lane: int, after: tuple[float, float, int], limit: int
    ) -> list[WaitingCall]:
        """See `Store.waiting_in`."""
        return await self.read(lambda rows: calls.waiting_in(rows, lane, after, limit))

    async def model_version(self: Lends) -> int:
        """See `Store.model_version`."""
        return await self.look(models.version)

    async def model_head(self: Lends) -> ModelHead | None:
        """See `Store.model_head`."""
        return await self.read(models.head)

    async def function_models(
        self: Lends, *, since: int, after: int, limit: int
    ) -> list[FunctionModel]:
        """See `Store.function_models`."""
        return await self.read(
            lambda rows: models.functions(rows, since=since, after=after, limit=limit)
        )

    async def keep_model(self: Lends, change: ModelChange) -> bool:
        """See `Store.keep_model`."""
        return await self.write(lambda rows: models.keep(rows, change))

    # ---- totals of batches

    async def note_totals(self: Lends, told: Sequence[ToldTotal]) -> None:
        """See `Store.note_totals`."""
        await self.write(lambda rows: totals.note(rows, told))

    async def done_totals(self: Lends, *, limit: int) -> list[OpenTotal]:
        """See `Store.done_totals`."""
        return await self.read(lambda rows: totals.done(rows, limit))

    async def run_seconds_of(self: Lends, batch: int, *, start: int) -> float:
        """See `Store.run_seconds_of`."""
        return await self.read(lambda rows: totals.add_up(rows, batch, start))

    async def judge_total(self: Lends, total: OpenTotal, seconds: float | None) -> None:
        """See `Store.judge_total`."""
        await self.write(lambda rows: totals.judge(rows, total, seconds))

    async def judged_totals(self: Lends, function: int) -> list[JudgedTotal]:
        """See `Store.judged_totals`."""
        return await self.read(lambda rows: totals.of_function(rows, function))
