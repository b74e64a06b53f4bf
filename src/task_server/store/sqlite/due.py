"""T4: delayed tasks whose time has come are queued."""

from __future__ import annotations

from task_server.store.sqlite.anew import places_anew
from task_server.store.sqlite.change import LostUpdate, offer_row, read_rows
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import write_many
from task_server.store.states import State


def make_due(group: Group, *, limit: int) -> int:
    """Queue what is due; how many were looked at, `limit` when there may be more."""
    found = group.connection.execute(
        "SELECT number FROM task_extras WHERE delayed_until <= ? LIMIT ?", (group.now, limit)
    )
    numbers = [number for (number,) in found]
    rows = [row for row in read_rows(group, numbers) if row.state is State.DELAYED]
    places = places_anew(group, rows)
    changed = write_many(
        group.connection,
        "UPDATE tasks SET state = 0, ready_at = w.column3, due_at = w.column4,"
        " tie = w.column5"
        " FROM (VALUES {rows}) AS w WHERE tasks.number = w.column1"
        # Only a task that is still delayed as it was read.
        " AND tasks.state = 1 AND tasks.attempt = w.column2",
        [(row.number, row.attempt, group.now, *at) for row, at in zip(rows, places, strict=True)],
    )
    if changed != len(rows):
        raise LostUpdate("a delayed task was not as it had been read")
    write_many(
        group.connection,
        "UPDATE task_extras SET delayed_until = NULL FROM (VALUES {rows}) AS w"
        " WHERE task_extras.number = w.column1",
        [(number,) for number in numbers],
    )
    for row, at in zip(rows, places, strict=True):
        row.due_at, row.tie = at
        offer_row(group, row, crashes=row.crashes)
    return len(numbers)
