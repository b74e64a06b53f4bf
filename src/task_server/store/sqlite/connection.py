"""Opening the database file: what it is refused for, its settings, its lock."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from urllib.parse import quote

import msgspec

from task_server.errors import DatabaseUnusable
from task_server.store.rows import Upgrade
from task_server.store.sqlite.filesystem import check_filesystem
from task_server.store.sqlite.migrate import (
    SCRIPTS,
    check_version,
    migrate,
    newest_version,
    version_of,
)

log = logging.getLogger(__name__)

OLDEST_SQLITE = (3, 38, 0)
BUSY_SECONDS = 10.0
LOG_BYTES = 64 * 2**20
"""The write-ahead log is cut back to this size when it begins anew."""
LOG_PAGES = 4000
"""What is in the log is copied into the database when it has so many pages."""
PAGE_BYTES = 4096
CHECKED_BYTES = 128 * 2**20
"""A file up to this size is checked as a whole when a server opens it: 0.2 s of reading."""
LOCK_SECONDS = 1.0
"""How long to wait for the file's lock: `token create` has it for a moment in a new file."""
RESTORE = "put a backup made by `task-server db backup` in its place, or choose another --database"
CHECK = f"`task-server db check` tells more; {RESTORE}"

_DAMAGE = (msgspec.DecodeError, LookupError, TypeError, ValueError)
"""What rows lead to that SQLite reads but nobody wrote."""


def _connect(path: Path, *, is_read_only: bool = False) -> sqlite3.Connection:
    name = f"file:{quote(str(path))}?mode={'ro' if is_read_only else 'rwc'}"
    return sqlite3.connect(
        name,
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=512,
        timeout=BUSY_SECONDS,
    )


def _configure(connection: sqlite3.Connection, *, is_writer: bool) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")  # the verbs keep them; checking costs a third
    kept = 65536 if is_writer else 8192  # readers have the system's own cache behind theirs
    connection.execute(f"PRAGMA cache_size = -{kept}")  # KiB
    connection.execute("PRAGMA temp_store = MEMORY")  # statement journals: a file for each else


def open_writer(
    path: Path, *, holds_lock: bool = False, scripts: Traversable = SCRIPTS
) -> sqlite3.Connection:
    """A connection that writes, to the newest tables.

    `holds_lock`: the caller is the file's server. Others upgrade a database only while it has
    none. Raises DatabaseUnusable.
    """
    return upgraded(path, holds_lock=holds_lock, scripts=scripts)[0]


def upgraded(
    path: Path, *, holds_lock: bool = False, scripts: Traversable = SCRIPTS
) -> tuple[sqlite3.Connection, Upgrade]:
    """As `open_writer`, and from which version to which that led."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise DatabaseUnusable(
            f"SQLite {sqlite3.sqlite_version} is too old; 3.38 or newer is needed"
        )
    check_filesystem(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_log(path)
    with explained(path):
        connection = _connect(path)
        try:
            if holds_lock:
                _check_pages(connection, path)
            _prepare(connection, path)
            return connection, _upgrade(connection, path, holds_lock=holds_lock, scripts=scripts)
        except BaseException:
            connection.close()
            raise


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _configure(connection, is_writer=True)
    if path.stat().st_size == 0:
        path.chmod(0o600)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # only before the first table
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")


def _upgrade(
    connection: sqlite3.Connection, path: Path, *, holds_lock: bool, scripts: Traversable
) -> Upgrade:
    version, newest = version_of(connection), newest_version(scripts)
    if version == newest or holds_lock:
        return migrate(connection, path, scripts)
    check_version(path, version, newest)
    try:
        lock = hold_lock(path)
    except DatabaseUnusable as error:
        raise DatabaseUnusable(
            f"database {path} has version {version} and this program needs {newest}, but a server"
            " works on it; restart the server with this version of task-server"
        ) from error
    try:
        return migrate(connection, path, scripts)
    finally:
        os.close(lock)


def log_of(path: Path) -> Path:
    """The file of a database's write-ahead log."""
    return path.with_name(path.name + "-wal")


def _check_log(path: Path) -> None:
    """A backup put in the place of a database must not meet the log that the other one left."""
    left = log_of(path)
    try:
        with path.open("rb") as file:
            has_had_log = file.read(20)[18:] != b"\x01\x01"
        is_left_over = not has_had_log and left.stat().st_size > 0
    except OSError:
        return
    if is_left_over:
        raise DatabaseUnusable(
            f"database {path} is a backup that was put here, but {left.name} beside it belongs"
            f" to the database that was here before; move {left.name} and {path.name}-shm away,"
            " then start again"
        )


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    if path.stat().st_size > CHECKED_BYTES:
        return
    ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
    if found != "ok":
        raise DatabaseUnusable(f"database {path} is damaged: {_one_line(found)}; {CHECK}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """What goes wrong with a file while it is opened, as DatabaseUnusable."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise unusable(path, error) from error
    except _DAMAGE as error:
        log.exception("the rows of %s do not fit together", path)
        raise unusable(path, error) from error


def unusable(path: Path, error: Exception) -> DatabaseUnusable:
    """What to tell of a file that SQLite does not take, or whose rows do not fit together."""
    if isinstance(error, sqlite3.OperationalError):
        return DatabaseUnusable(f"database {path}: {error}{_advice(error)}")
    told = str(error) if isinstance(error, sqlite3.Error) else f"damaged ({error!r})"
    return DatabaseUnusable(f"database {path}: {told}; {CHECK}")


def _advice(error: sqlite3.OperationalError) -> str:
    """What to do about the machine, where it is at fault and not the file."""
    if is_full(error):
        return "; free some space on that disk, then start again"
    if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return "; this user must be able to write the file and its folder"
    if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "; another program works on the file: end it, then start again"
    return f"; {CHECK}"


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def is_full(error: Exception) -> bool:
    """True when the disk has no room for more."""
    return _code(error) == sqlite3.SQLITE_FULL


def is_fatal(error: Exception) -> bool:
    """True when nobody knows what is on disk, as after a failed fsync: only a restart tells."""
    return _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads."""
    connection = _connect(path)
    _configure(connection, is_writer=False)
    connection.execute("PRAGMA query_only = ON")
    return connection


@contextmanager
def looking_at(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that leaves the file as it is, beside its server or without any.

    Raises DatabaseUnusable when there is no such file, or when it is no database.
    """
    if not path.exists():
        raise DatabaseUnusable(f"there is no database {path}; name one with --data or --database")
    connection = None
    try:
        connection = _connect(path, is_read_only=True)
        version_of(connection)
        yield connection
    except sqlite3.DatabaseError as error:
        raise DatabaseUnusable(f"database {path} cannot be read: {error}; {RESTORE}") from error
    finally:
        if connection is not None:
            connection.close()


def hold_lock(path: Path) -> int:
    """Take the file's lock for a server; gives its descriptor. Raises when another has it."""
    check_filesystem(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if time.monotonic() < end:
                time.sleep(0.05)
                continue
            os.close(descriptor)
            raise DatabaseUnusable(
                f"another server works on {path}; stop it, or use PostgreSQL for several servers"
            ) from error
