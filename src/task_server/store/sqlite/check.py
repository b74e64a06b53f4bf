"""Whether a SQLite file is whole: its pages, its rows, and the blobs that they name.

It reads one state of the database, beside its server or without, and changes nothing.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from task_server.errors import DatabaseUnusable
from task_server.store.records.checks import (
    CHECKS,
    Finding,
    fault,
    missing,
    needed_blobs,
    wheels,
)
from task_server.store.records.sql import finish_now
from task_server.store.sqlite.connection import looking_at
from task_server.store.sqlite.migrate import check_version, newest_version, version_of
from task_server.store.sqlite.rows import SqliteRows

WHEELS_SINCE = 2
"""Version of the tables."""

MAXIMUM_MESSAGES = 100
"""What SQLite is asked to tell of a damaged file."""


def check(path: Path, blobs: Path | None = None) -> list[Finding]:
    """What is wrong with a database; nothing when it is whole.

    `blobs` is the folder of the blobs that its tasks name; None: they lie elsewhere. Raises
    DatabaseUnusable for a file that is not this program's database.
    """
    with looking_at(path) as connection:
        version, newest = version_of(connection), newest_version()
        check_version(path, version, newest)
        if version < newest:
            raise DatabaseUnusable(
                f"database {path} has version {version}, this program checks {newest};"
                " `task-server db upgrade` brings it there"
            )
        connection.execute("BEGIN")  # one state of the database, whatever its server does
        return [
            *damages(connection),
            *faults(connection),
            *dangling(connection),
            *missing_blobs(connection, blobs),
        ]


def damages(connection: sqlite3.Connection) -> list[Finding]:
    """What SQLite finds wrong with the file."""
    try:
        rows = connection.execute(f"PRAGMA integrity_check({MAXIMUM_MESSAGES})").fetchall()
    except sqlite3.DatabaseError as error:
        rows = [(error,)]
    if rows == [("ok",)]:
        return []
    message = " ".join(str(rows[0][0]).split())
    return [Finding("the file is damaged", len(rows), message)]


def faults(connection: sqlite3.Connection) -> list[Finding]:
    """Rows that contradict each other."""
    found = [_fault(connection, what) for what in CHECKS]
    return [each for each in found if each is not None]


def _fault(connection: sqlite3.Connection, what: str) -> Finding | None:
    try:
        return finish_now(fault(SqliteRows(connection), what))
    except sqlite3.DatabaseError as error:  # of a damaged file; the others are checked all the same
        return Finding(f"not checked: {what}", 1, str(error))


def dangling(connection: sqlite3.Connection) -> list[Finding]:
    """Rows that name others, as a lane its environment request, where those are gone."""
    try:
        rows = connection.execute("PRAGMA foreign_key_check").fetchall()
    except sqlite3.DatabaseError as error:
        return [Finding("not checked: a row names another that is not there", 1, str(error))]
    if not rows:
        return []
    table, row, parent, _ = rows[0]
    return [Finding("a row names another that is not there", len(rows), f"{table} {row}: {parent}")]


def missing_blobs(connection: sqlite3.Connection, folder: Path | None) -> list[Finding]:
    """Blobs that tasks need and that are not in the folder."""
    if folder is None:
        return []
    try:
        needed = blobs_of(connection)
    except sqlite3.DatabaseError as error:
        return [Finding("not checked: the blobs", 1, str(error))]
    return missing(needed, folder)


def blobs_of(connection: sqlite3.Connection) -> set[str]:
    """The blobs that tasks and uploaded wheels cannot do without."""
    needed = finish_now(needed_blobs(SqliteRows(connection)))
    if version_of(connection) < WHEELS_SINCE:  # copied before an upgrade
        return needed
    return needed | finish_now(wheels(SqliteRows(connection)))
