"""The tables' versions: numbered scripts, each one transaction.

A database says its version itself. It changes in the transaction that changes the tables, so that
a kill in the middle leaves the version before, whole.
"""

from __future__ import annotations

import logging
import sqlite3
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from task_server.errors import DatabaseUnusable
from task_server.store.rows import Upgrade

log = logging.getLogger(__name__)

SCRIPTS: Traversable = resources.files("task_server.store.sqlite") / "migrations"


def version_of(connection: sqlite3.Connection) -> int:
    """The version of a database."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version


def newest_version(folder: Traversable = SCRIPTS) -> int:
    """The version that this program works with."""
    return _scripts(folder)[-1][0]


def check_version(path: Path, version: int, newest: int) -> None:
    """Raise DatabaseUnusable for a version that this program cannot know."""
    if version > newest:
        raise DatabaseUnusable(
            f"database {path} was made by a newer version of task-server: it has version"
            f" {version}, this program knows {newest}; install the newer task-server again"
        )


def migrate(connection: sqlite3.Connection, path: Path, folder: Traversable = SCRIPTS) -> Upgrade:
    """Bring the tables to the newest version; the caller holds the file's lock.

    Raises DatabaseUnusable for a newer database, and sqlite3.Error when a script fails; the
    version before that script is kept then.
    """
    before = version_of(connection)
    scripts = _scripts(folder)
    check_version(path, before, scripts[-1][0])
    for number, script in scripts:
        if number > before:
            connection.executescript(
                f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;"
            )
    after = version_of(connection)
    if 0 < before < after:
        log.info("database %s upgraded from version %d to %d", path, before, after)
    return Upgrade(before, after)


def _scripts(folder: Traversable) -> list[tuple[int, str]]:
    found = [
        (int(entry.name.split("_")[0]), entry.read_text())
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(found)
