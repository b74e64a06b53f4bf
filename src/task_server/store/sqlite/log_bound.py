"""Keeps the write-ahead log short.

SQLite copies the log into the database by itself, but begins the log anew only in a moment in which
nobody reads from it. Under a load of many short reads that moment may never come by chance, so the
writer waits for one. It holds up writes meanwhile, and readers that come then read the database
itself: those that are there only have to finish. A long read, as a backup's, is not waited for.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from pathlib import Path

from task_server.store.sqlite.connection import BUSY_SECONDS, LOG_BYTES, log_of

log = logging.getLogger(__name__)

LONG_BYTES = 4 * LOG_BYTES
"""A log of this size is told of: only a read that does not end makes it so long."""
WAIT_SECONDS = 0.05
"""How long the writer waits for those who read."""
LOOK_SECONDS = 0.02
"""Between two looks: who was just told of a commit waits for this thread to pause."""
PAUSE_SECONDS = 2.0
"""Between two tries."""


class LogBound:
    """Watches the size of one database's log; in the writer's thread, between transactions."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._file = log_of(path)
        self._look_at = 0.0
        self._next_try = 0.0
        self._is_told = False

    def keep(self) -> None:
        """Begin the log anew if it is long; after each commit."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        size = self._size()
        if size <= LOG_BYTES:
            self._is_told = False
            return
        if now < self._next_try:
            return
        self._next_try = now + PAUSE_SECONDS
        self._restart()
        if size > LONG_BYTES and not self._is_told:
            self._is_told = True
            log.warning(
                "%s has %d MiB: a read that does not end, as of a backup or of another program,"
                " keeps it from being emptied",
                self._file,
                size >> 20,
            )

    def _size(self) -> int:
        try:
            return self._file.stat().st_size
        except FileNotFoundError:
            return 0

    def _restart(self) -> None:
        self._set_patience(WAIT_SECONDS)
        try:
            self._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        except sqlite3.OperationalError as error:
            # The commits themselves are done: what failed here is tried again, or fails there.
            log.warning("the log cannot be emptied now: %s", error)
        finally:
            self._set_patience(BUSY_SECONDS)

    def _set_patience(self, seconds: float) -> None:
        self._connection.execute(f"PRAGMA busy_timeout = {round(seconds * 1000)}")
