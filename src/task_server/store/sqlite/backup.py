"""Copies of a database, made while its server works; and what a server makes of one.

A copy is marked. The server that first opens it in the place of a database knows by the mark that
time went on after the copy was made: tasks were leased, run and answered that wait in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path

from msgspec import Struct

from task_server.errors import DatabaseUnusable
from task_server.store.records.checks import blob_path
from task_server.store.sqlite.check import blobs_of
from task_server.store.sqlite.connection import looking_at

COPIED_AT = "copied_at"
"""Name in `meta` of the moment a copy was made; only a copy that no server opened yet has it."""
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Saved(Struct):
    """What a backup holds."""

    size_bytes: int
    tasks: int
    blobs: int
    """Blobs that belong to it, wherever they lie."""
    blobs_copied: int
    """Those of them that were not beside the copy before."""
    blobs_missing: int
    """Those that its tasks need and that could not be found."""


def backup(path: Path, target: Path, *, blobs: Path | None, copies_blobs: bool) -> Saved:
    """Copy a database to `target`, and with `copies_blobs` its blobs into `blobs` beside that.

    The copy is one state of the database, on disk when this returns, and appears whole or not at
    all. `blobs` is the folder of the database's blobs; None: they lie elsewhere. Raises
    DatabaseUnusable.
    """
    if target.exists():
        raise DatabaseUnusable(f"{target} exists already; name another file for the backup")
    partial = target.with_name(target.name + ".partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _copy(path, partial)
        saved, names = _finish(partial)
        if blobs is not None:
            kept = target.parent / "blobs" if copies_blobs else None
            _add_blobs(saved, names, blobs, kept)
        _publish(partial, target)
    except OSError as error:
        raise DatabaseUnusable(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return saved


def _copy(path: Path, partial: Path) -> None:
    with looking_at(path) as connection:
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        connection.execute("VACUUM INTO ?", (str(partial),))


def _finish(partial: Path) -> tuple[Saved, dict[str, bool]]:
    """Mark the copy and see that it is whole; gives its blobs, and which of them tasks need."""
    connection = sqlite3.connect(partial, isolation_level=None)
    try:
        connection.execute(
            "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", (COPIED_AT, time.time())
        )
        ((found,),) = connection.execute("PRAGMA quick_check(1)").fetchall()
        if found != "ok":
            raise DatabaseUnusable(f"the copy is damaged: {found}; run `task-server db check`")
        (tasks,) = connection.execute("SELECT count(*) FROM tasks").fetchone()
        known = connection.execute(
            "SELECT digest FROM blobs UNION SELECT digest FROM blob_uses"
            " UNION SELECT pickle FROM kinds WHERE pickle IS NOT NULL"
        )
        names = {name: False for (name,) in known} | dict.fromkeys(blobs_of(connection), True)
        return Saved(partial.stat().st_size, tasks, 0, 0, 0), names
    finally:
        connection.close()


def _add_blobs(saved: Saved, names: dict[str, bool], blobs: Path, kept: Path | None) -> None:
    """Count the blobs, and copy into `kept` those that are not there yet."""
    for name, is_needed in names.items():
        source = blob_path(blobs, name)
        if source is None:
            saved.blobs_missing += is_needed
            continue
        saved.blobs += 1
        if kept is not None and blob_path(kept, name) is None:
            _copy_blob(source, kept)
            saved.blobs_copied += 1


def _copy_blob(source: Path, kept: Path) -> None:
    folder = kept / source.parent.name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = folder / f"{source.name}.partial"
    shutil.copyfile(source, partial)
    _sync(partial)
    partial.rename(folder / source.name)
    _sync(folder)


def _publish(partial: Path, target: Path) -> None:
    """Give the copy its name, unless another file got it meanwhile."""
    _sync(partial)
    try:
        target.hardlink_to(partial)
    except FileExistsError:
        raise DatabaseUnusable(f"{target} exists already; name another file") from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        partial.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
