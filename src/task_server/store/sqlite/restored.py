"""A backup in the place of its database: what happened after the copy was made is not known.

Tasks that wait in it may have been leased since, those that run may have been answered, and places
among the finished were given to others. So every lease ends, at no cost to its task; a worker that
goes on with one can still bring the answer, as any late one. What may start only once has to fail.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable

import msgspec

from task_server.protocol.tasks import Error
from task_server.store import transitions
from task_server.store.attempts import AttemptReport
from task_server.store.kinds import Kind
from task_server.store.sqlite.backup import COPIED_AT
from task_server.store.sqlite.change import (
    end_attempt,
    end_tasks,
    read_rows,
    write_change,
)
from task_server.store.sqlite.group import Group
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change

log = logging.getLogger(__name__)

SKIPPED_PLACES = 2**32
"""Places among the finished that were perhaps given since: readers stand behind one of them."""
MAY_HAVE_RUN = (
    "the database was restored from a backup, so nobody knows whether this task, which may start"
    " only once, has run since; try it again if it may run once more"
)


def is_restored(connection: sqlite3.Connection) -> bool:
    """Whether this is a backup that no server has opened yet."""
    return _copied_at(connection) is not None


def _copied_at(connection: sqlite3.Connection) -> float | None:
    row = connection.execute("SELECT value FROM meta WHERE name = ?", (COPIED_AT,)).fetchone()
    return None if row is None else float(row[0])


def begin_anew(group: Group) -> None:
    """End every lease and session, and fail what may have run; in the group's transaction."""
    group.begin()
    copied_at = _copied_at(group.connection)
    rows = read_rows(group, _open_tasks(group))
    for row in rows:
        if row.state is State.RUNNING:
            end_attempt(group, row, told=None, is_stopped=False)
    once = [row for row in rows if row.kind.spec.at_most_once]
    end_tasks(group, once, Change(State.FAILED, kind="lost"), report=_lost())
    again = [row for row in rows if not row.kind.spec.at_most_once]
    for row in again:
        # It may have started since, as withdrawn ones may: then its answer comes late.
        change = transitions.release(
            row.as_row(), unfit=False, is_withdrawn=False, policy=group.policy
        )
        write_change(group, row, change)
    _end_sessions(group)
    _skip_places(group)
    group.connection.execute("DELETE FROM meta WHERE name = ?", (COPIED_AT,))
    log.warning(
        "this database is a backup made %.0f s ago: %d leases ended, %d tasks failed that may start"
        " only once, workers have to join again",
        group.now - (copied_at or group.now),
        len(again),
        len(once),
    )


def _open_tasks(group: Group) -> Iterable[int]:
    """Tasks that ran in the copy, and those that may start only once and could have run since."""
    one = group.connection.execute
    kinds = [Kind.read(*row) for row in one("SELECT kind, function, lane, spec FROM kinds")]
    once = [kind.number for kind in kinds if kind.spec.at_most_once]
    rows = one(
        "SELECT number FROM tasks WHERE state = 2"
        " UNION SELECT t.number FROM tasks t LEFT JOIN task_extras x USING (number)"
        " WHERE t.state IN (0, 1) AND t.kind IN (SELECT value FROM json_each(?))"
        # What is not due yet was not due then.
        " AND ifnull(x.run_after, 0) <= ?",
        (msgspec.json.encode(once).decode(), group.now),
    )
    return [number for (number,) in rows]


def _lost() -> AttemptReport:
    error = Error(kind="lost", type="lost", message=MAY_HAVE_RUN)
    return AttemptReport(None, "failed", Encoding.ERROR, msgspec.json.encode(error))


def _end_sessions(group: Group) -> None:
    group.connection.execute("UPDATE sessions SET is_over = 1 WHERE is_plain = 0")


def _skip_places(group: Group) -> None:
    group.memory.next_n += SKIPPED_PLACES
    group.connection.execute(
        "INSERT OR REPLACE INTO meta (name, value) VALUES ('next_n', ?)", (group.memory.next_n,)
    )
