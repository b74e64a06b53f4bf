"""Opening the database file: its settings, its lock, its migrations."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from importlib import resources
from pathlib import Path

from task_server.errors import TaskServerError

OLDEST_SQLITE = (3, 38, 0)


class DatabaseUnusable(TaskServerError):
    """The file cannot be used; the message says why and what to do."""


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=512, timeout=10.0
    )


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")  # the verbs keep them; checking costs a third
    connection.execute("PRAGMA cache_size = -65536")  # KiB


def open_writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes, with the newest tables."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise DatabaseUnusable(
            f"SQLite {sqlite3.sqlite_version} is too old; 3.38 or newer is needed"
        )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    is_new = not path.exists() or path.stat().st_size == 0
    connection = _connect(path)
    try:
        _configure(connection)
        if is_new:
            path.chmod(0o600)
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA wal_autocheckpoint = 4000")
        _migrate(connection)
    except (sqlite3.DatabaseError, DatabaseUnusable) as error:
        connection.close()
        if isinstance(error, DatabaseUnusable):
            raise
        raise unusable(path, error) from error
    return connection


def unusable(path: Path, error: sqlite3.Error) -> DatabaseUnusable:
    """What to tell of a file that SQLite does not take."""
    return DatabaseUnusable(
        f"database {path.name}: {error}; restore a backup, or name another file with --database"
    )


def is_fatal(error: Exception) -> bool:
    """True when nobody knows what is on disk, as after a failed fsync: only a restart tells."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = _connect(path)
    _configure(connection)
    connection.execute("PRAGMA query_only = ON")
    return connection


def hold_lock(path: Path) -> int:
    """Take the file's lock for a server; gives its descriptor. Raises when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise DatabaseUnusable(
            f"another server works on {path.name}; stop it, or use PostgreSQL for several servers"
        ) from error
    return descriptor


def _migrations() -> list[tuple[int, str]]:
    folder = resources.files("task_server.store.sqlite") / "migrations"
    found = [
        (int(entry.name.split("_")[0]), entry.read_text())
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)


def _migrate(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    migrations = _migrations()
    if version > migrations[-1][0]:
        raise DatabaseUnusable(
            "the database was made by a newer version of task-server; upgrade it"
        )
    for number, script in migrations:
        if number > version:
            # One transaction each, so that a kill in the middle leaves the version before it.
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
