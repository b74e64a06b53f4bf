"""Ending a runner with all it started, also what left its session or its parent.

A runner is a subreaper: whatever its functions start stays below it for as long as it lives. So
what is below is ended first, and only then the runner. If it died by itself, what it left is known
by a variable that all of it inherited.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PROC = Path("/proc")
MARK = "TASK_SERVER_RUNNER"
"""Variable with the runner's folder and an id, inherited by all it starts."""

ROUNDS_SECONDS = 5.0
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def descendants(root: int) -> list[int]:
    """Every process below `root`, parents first."""
    found: list[int] = []
    waiting = [root]
    while waiting:
        children = _children(waiting.pop())
        found += children
        waiting += children
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in (PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def resident_bytes(pids: Iterable[int], *, at_most: int) -> int:
    """The memory that these hold; exact once it is more than `at_most`.

    Pages that several share are counted by each of them, as long as that makes no difference.
    """
    pids = list(pids)
    used = sum(_resident_bytes(pid) for pid in pids)
    return sum(_fair_bytes(pid) for pid in pids) if used > at_most else used


def _resident_bytes(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int((PROC / str(pid) / "statm").read_bytes().split()[1]) * PAGE_BYTES
    return 0


def _fair_bytes(pid: int) -> int:
    """With an equal share of what others hold too."""
    with contextlib.suppress(OSError, IndexError):
        told = (PROC / str(pid) / "smaps_rollup").read_bytes()
        return int(told.partition(b"\nPss:")[2].split()[0]) * 1024
    return _resident_bytes(pid)


def end_descendants(root: int) -> bool:
    """End all below `root`, not itself; whether none is left. Zombies do not count."""
    until = time.monotonic() + ROUNDS_SECONDS
    stopped: set[int] = set()
    # Stopped first: what is stopped starts nothing, so that the last round finds all.
    while time.monotonic() < until:
        new = [pid for pid in descendants(root) if pid not in stopped and is_alive(pid)]
        if not new:
            break
        for pid in new:
            _signal(pid, signal.SIGSTOP)
        stopped.update(new)
    return _kill_until_none(lambda: descendants(root), until)


def end_tree(root: int) -> None:
    """End `root` and all below it. It must be a child of this process that was not waited for."""
    _signal(root, signal.SIGSTOP)
    end_descendants(root)
    try:
        os.killpg(root, signal.SIGKILL)  # its group: all there is where /proc is not
    except (ProcessLookupError, PermissionError):
        _signal(root, signal.SIGKILL)


def end_marked(mark: str) -> bool:
    """End what runners that are gone have left anywhere; `mark` is how their mark begins."""
    return _kill_until_none(lambda: list(marked(mark)), time.monotonic() + ROUNDS_SECONDS)


def marked(mark: str) -> Iterator[int]:
    """Processes that inherited a mark that begins so, zombies aside."""
    wanted = f"{MARK}={mark}".encode()
    if not PROC.is_dir():
        return
    for folder in PROC.iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                variables = (folder / "environ").read_bytes().split(b"\0")
                if any(variable.startswith(wanted) for variable in variables):
                    yield int(folder.name)


def _kill_until_none(find: Callable[[], list[int]], until: float) -> bool:
    while True:
        alive = [pid for pid in find() if is_alive(pid)]
        for pid in alive:
            _signal(pid, signal.SIGKILL)
        if not alive or time.monotonic() > until:
            return not alive
        time.sleep(0.002)


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        state = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
