"""Predictions of waiting tasks that are better known now: written back, and their places anew."""

from __future__ import annotations

from collections.abc import Sequence

from task_server.scheduling.order import Place
from task_server.store.contract_learning import NewPrice
from task_server.store.sqlite.change import FullRow, LostUpdate, offer_row, read_rows
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.states import State

_REPRICE = (
    "UPDATE tasks SET predicted = w.column3, predicted_high = w.column4, due_at = w.column5,"
    " tie = w.column6 FROM (VALUES {rows}) AS w WHERE tasks.number = w.column1"
    # A task that was leased since it was priced keeps the estimate that it was leased with.
    " AND tasks.state = 0 AND tasks.attempt = w.column2"
)
_SHARED = (
    "SELECT t.number, t.ready_at, x.finish_by, b.due_at, b.in_order FROM tasks t"
    " LEFT JOIN task_extras x USING (number) LEFT JOIN batches b USING (batch)"
    " WHERE t.number IN ({rows})"
)


def reprice(group: Group, prices: Sequence[NewPrice]) -> int:
    """Give waiting tasks other predictions; how many wait still as they were priced."""
    wanted = {price.number: price for price in prices}
    rows = [
        row
        for row in read_rows(group, wanted)
        if row.state is State.QUEUED and row.attempt == wanted[row.number].attempt
    ]
    places = _places(group, rows, wanted)
    changed = write_many(
        group.connection,
        _REPRICE,
        [
            (
                row.number,
                row.attempt,
                wanted[row.number].predicted,
                wanted[row.number].predicted_high,
                *at,
            )
            for row, at in zip(rows, places, strict=True)
        ],
    )
    if changed != len(rows):
        raise LostUpdate("a queued task was not as it had been read")
    for row, at in zip(rows, places, strict=True):
        _move(group, row, wanted[row.number], at)
    return len(rows)


def _places(group: Group, rows: Sequence[FullRow], wanted: dict[int, NewPrice]) -> list[Place]:
    found = select_in(group.connection, _SHARED, [row.number for row in rows])
    shared = {number: rest for number, *rest in found}
    by_prediction = group.policy.by_prediction
    return [
        wanted[row.number].place(*shared[row.number], by_prediction=by_prediction) for row in rows
    ]


def _move(group: Group, row: FullRow, price: NewPrice, at: Place) -> None:
    """To its new place, in the window too."""
    window = group.memory.lanes[row.kind.lane].window
    waiting = window.take((row.due_at, row.tie, row.number))
    row.due_at, row.tie = at
    row.predicted, row.predicted_high = price.predicted, price.predicted_high
    if waiting is None:
        offer_row(group, row, crashes=row.crashes)
        return
    waiting.due_at, waiting.tie = at
    waiting.predicted, waiting.predicted_high = price.predicted, price.predicted_high
    group.offer(waiting)
