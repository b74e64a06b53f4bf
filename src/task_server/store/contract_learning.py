"""The verbs of the store that the estimator's teacher needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from task_server.scheduling.order import InBatch, Place, place

if TYPE_CHECKING:
    from task_server.store.records.calls import OpenCall, WaitingCall
    from task_server.store.records.learning import EndedAttempt
    from task_server.store.records.models import FunctionModel, ModelChange, ModelHead
    from task_server.store.records.totals import JudgedTotal, OpenTotal, ToldTotal


class NewPrice(Struct, frozen=True):
    """A waiting task's run time as it is known now."""

    number: int
    attempt: int
    """As it was read."""
    predicted: float
    """p50 in seconds; negative: a guess."""
    predicted_high: float
    """p90."""

    def place(
        self,
        ready_at: float,
        finish_by: float | None,
        batch_due_at: float | None,
        in_order: int | None,
        *,
        by_prediction: bool,
    ) -> Place:
        """Where its task, with these columns of its and of its batch's rows, stands by it."""
        return place(
            ready_at,
            predicted=self.predicted,
            predicted_high=self.predicted_high,
            finish_by=finish_by,
            batch=None if batch_due_at is None else InBatch(batch_due_at, bool(in_order)),
            by_prediction=by_prediction,
        )


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

    async def waiting_calls(self, batch: int, positions: Collection[int]) -> list[OpenCall]:
        """Of these members of a batch those that wait."""

    async def running_calls(self, batch: int) -> list[OpenCall]:
        """The members of a batch that run."""

    async def waiting_in(
        self, lane: int, after: tuple[float, float, int], limit: int
    ) -> list[WaitingCall]:
        """The next waiting tasks of a lane, in their order, beyond a key."""

    async def reprice(self, prices: Sequence[NewPrice]) -> int:
        """Give waiting tasks other predictions, and the places that go with these.

        How many: those that were leased or ended since they were read are left as they are.
        """

    # ---- the model that is kept

    async def model_version(self) -> int:
        """Of the model that is kept; 0: there is none."""

    async def model_head(self) -> ModelHead | None:
        """What the newest model's functions share; None: there is no model."""

    async def function_models(self, *, since: int, after: int, limit: int) -> list[FunctionModel]:
        """Models of functions that changed after version `since`, by number beyond `after`."""

    async def keep_model(self, change: ModelChange) -> bool:
        """Keep what was learned after the version before, all of it or nothing.

        False: another server has kept that version; what this one learned is of no use.
        """

    # ---- totals of batches

    async def note_totals(self, told: Sequence[ToldTotal]) -> None:
        """Keep what was said that requests' tasks would cost; of one batch it adds up."""

    async def done_totals(self, *, limit: int) -> list[OpenTotal]:
        """Batches that are done and neither judged nor dropped; what is gone is dropped."""

    async def run_seconds_of(self, batch: int, *, start: int) -> float:
        """What a piece of a batch took, from that position on."""

    async def judge_total(self, total: OpenTotal, seconds: float | None) -> None:
        """Keep what a batch took; None: drop what was said. The oldest of its function go."""

    async def judged_totals(self, function: int) -> list[JudgedTotal]:
        """The batches of a function that were judged, the newest first."""
