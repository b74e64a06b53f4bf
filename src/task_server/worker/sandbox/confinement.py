"""What keeps one runner in its place, from its start to its end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from task_server.worker.process_tree import descendants, resident_bytes
from task_server.worker.sandbox.cgroups import Group
from task_server.worker.sandbox.doors import Door
from task_server.worker.sandbox.files import SHARED_MEMORY
from task_server.worker.sandbox.relay import variables

PROCESSES_ABOVE = 2
"""In namespaces the runner is that far below the process that the agent started."""


class Confinement:
    """Of one runner; without arguments it is a process of its own and nothing more."""

    def __init__(
        self,
        plan: dict[str, Any] | None = None,
        *,
        level: int = 0,
        uid: int | None = None,
        group: Group | None = None,
        door: Door | None = None,
        memory_bytes: int | None = None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self.plan = plan
        """For `child.py`."""
        self.level = level
        self.memory_bytes = memory_bytes
        self._uid = uid
        self._group = group
        self._door = door
        self._on_end = on_end
        self._peak_bytes = 0
        self._folder: Path | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the process is to inherit."""
        return () if self._door is None else (self._door.number,)

    @property
    def environ(self) -> dict[str, str]:
        """Variables that tell programs where the way out is, if there is one way alone."""
        return {} if self._door is None else variables()

    def own(self, folder: Path, *below: Path) -> None:
        """Give the runner its folder, and some that are there already."""
        self._folder = folder
        for each in (folder, *below):
            if self._uid is not None:
                os.chown(each, self._uid, self._uid)
            each.chmod(0o700)

    def started(self) -> None:
        """The process is there, and waits for its plan."""
        if self._door is not None:
            self._door.open()

    def runner(self, pid: int) -> int:
        """The process that runs functions, where `pid` is the one that the agent started."""
        if not (self.plan or {}).get("namespace"):
            return pid
        below = descendants(pid)[:PROCESSES_ABOVE]
        return below[-1] if len(below) == PROCESSES_ABOVE else pid

    def is_over(self, pid: int) -> bool:
        """Whether it takes more memory than it may, where the kernel does not see to that."""
        if self._group is not None or self.memory_bytes is None:
            return False
        used = resident_bytes([pid, *descendants(pid)], at_most=self.memory_bytes)
        self._peak_bytes = max(self._peak_bytes, used)
        return used > self.memory_bytes

    def has_run_out(self) -> bool:
        """Whether the kernel ended some of it for want of memory."""
        return self._group is not None and self._group.has_run_out()

    def peak_bytes(self) -> int:
        """The most memory it took, as far as that is known."""
        return self._group.peak_bytes() if self._group is not None else self._peak_bytes

    def end(self) -> None:
        """Let go of what it had, now that all its processes are gone. It waits for the kernel."""
        if self._door is not None:
            self._door.close()
            self._door = None
        if self._group is not None:
            self._group.remove()
            self._group = None
        if self._folder is not None and self.plan is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._uid is not None:
            _remove_shared(self._uid)  # another's runner may get the uid next
        on_end, self._on_end = self._on_end, lambda: None
        on_end()


def _remove_shared(uid: int) -> None:
    with contextlib.suppress(OSError):
        for each in Path(SHARED_MEMORY).iterdir():
            with contextlib.suppress(OSError):
                if each.lstat().st_uid == uid:
                    each.unlink()
