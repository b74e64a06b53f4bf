"""Where the tasks of a submission stand in their lanes, and where its batch does."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from task_server.scheduling.order import InBatch, Place, batch_due_at, place
from task_server.store.submissions import NewTask, Submission


class BatchSoFar(Struct, frozen=True):
    """A batch as its next members find it."""

    in_order: bool
    expected: int | None
    due_at: float | None = None
    total: int = 0


class Places:
    """The places of a submission's tasks; those without times of their own share their spec's."""

    __slots__ = ("_batch", "_by_prediction", "_now", "_of_specs", "_submission")

    def __init__(
        self, submission: Submission, *, now: float, batch: InBatch | None, by_prediction: bool
    ) -> None:
        self._submission = submission
        self._now = now
        self._batch = batch
        self._by_prediction = by_prediction
        self._of_specs = [self._place(spec, None) for spec in range(len(submission.prices))]

    def of(self, task: NewTask) -> Place:
        """Where this one stands."""
        if task.finish_by is None:
            return self._of_specs[task.spec]
        return self._place(task.spec, task.finish_by)

    def _place(self, spec: int, finish_by: float | None) -> Place:
        price = self._submission.prices[spec]
        return place(
            self._now,
            predicted=price.p50,
            predicted_high=price.p90,
            finish_by=finish_by,
            batch=self._batch,
            by_prediction=self._by_prediction,
        )


def in_batch(
    submission: Submission, new: Sequence[NewTask], batch: BatchSoFar, *, now: float
) -> InBatch:
    """What new members of a batch have in common; `due_at` is the batch's from then on.

    Of a batch that is sent in pieces, more is to come as `expected` says, at the pace of this one.
    """
    seconds = sum(submission.prices[task.spec].p50 for task in new)
    if batch.expected is not None and new:
        seconds *= max((batch.expected - batch.total) / len(new), 1.0)
    wanted = [task.finish_by for task in new if task.finish_by is not None]
    due_at = batch_due_at(
        now,
        seconds=seconds,
        slots=submission.slots,
        finish_by=min(wanted) if wanted and batch.in_order else None,
        before=batch.due_at,
    )
    return InBatch(due_at, batch.in_order)
