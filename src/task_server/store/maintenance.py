"""What is done to a database as a whole, by its URL."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from task_server.errors import DatabaseUnusable
from task_server.store.opening import is_postgres, postgres_part, sqlite_path
from task_server.store.records.checks import Finding
from task_server.store.rows import Upgrade
from task_server.store.sqlite import backup as sqlite_backup
from task_server.store.sqlite import check as sqlite_check
from task_server.store.sqlite.backup import Saved
from task_server.store.sqlite.connection import hold_lock, upgraded


def upgrade(url: str) -> Upgrade:
    """Bring the tables to the newest version; on SQLite while no server works on them.

    Raises DatabaseUnusable.
    """
    if is_postgres(url):
        found: Upgrade = asyncio.run(_postgres().upgrade(url))
        return found
    path = sqlite_path(url)
    lock = hold_lock(path)
    try:
        connection, found = upgraded(path, holds_lock=True)
        connection.close()
        return found
    finally:
        os.close(lock)


def check(url: str, blobs: Path | None) -> list[Finding]:
    """What is wrong with a database; it is left as it is. Raises DatabaseUnusable.

    `blobs` is the folder of the blobs that its tasks name; None: they lie elsewhere.
    """
    if is_postgres(url):
        findings: list[Finding] = asyncio.run(_postgres().check(url, blobs))
        return findings
    return sqlite_check.check(sqlite_path(url), blobs)


def backup(url: str, target: Path, *, blobs: Path | None, copies_blobs: bool) -> Saved:
    """Copy a database into a file, and its blobs beside that. Raises DatabaseUnusable."""
    if is_postgres(url):
        raise DatabaseUnusable("this copies SQLite files; for PostgreSQL use pg_dump")
    if copies_blobs and blobs is None:
        raise DatabaseUnusable("blobs in S3 are not copied: use the tools of the bucket")
    return sqlite_backup.backup(sqlite_path(url), target, blobs=blobs, copies_blobs=copies_blobs)


def _postgres() -> Any:
    return postgres_part("maintenance")
