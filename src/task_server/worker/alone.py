"""One worker for one data folder: two would end each other's runners and evict what is in use."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from task_server.errors import TaskServerError

LOCK_FILE = "worker.lock"


class FolderInUse(TaskServerError):
    """Another worker runs with this data folder."""


def hold(data: Path) -> IO[bytes]:
    """Take the folder for this process, until what this gives is closed. Raises FolderInUse.

    A worker that was killed holds it no longer.
    """
    # Runners may be other users: they pass through it to what is theirs, and list nothing.
    data.mkdir(parents=True, exist_ok=True, mode=0o711)
    file = (data / LOCK_FILE).open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise FolderInUse(
            f"another worker runs with the data folder {data}; stop it, or give this one a folder"
            " of its own with --data"
        ) from None
    return file
