"""Control groups: the kernel counts memory, processes and processor time of a runner and all below.

Version 2 where this process's group is given over to it (`Delegate=yes` in systemd), else version
1 with folders of our own beside or below the agent's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from task_server.worker.process_tree import is_alive
from task_server.worker.sandbox import network
from task_server.worker.sandbox.limits import RunnerLimits

log = logging.getLogger(__name__)

PREFIX = "task-server-"
PERIOD_MICROSECONDS = 100_000
REMOVE_SECONDS = 2.0
NETWORK = "network"
"""Beside the controllers: where the network of a group is restricted, which version 1 cannot."""


class Group:
    """The group of one runner."""

    def __init__(self, folders: Mapping[str, Path], *, is_second: bool) -> None:
        self._folders = folders
        self._is_second = is_second

    @property
    def entrances(self) -> list[str]:
        """Files that a process writes `0` to, to go in with all that it will start.

        Of version 1 they take a single thread, which the kernel moves at once; to move another
        process the agent would wait for 10 ms and more, until all processors have taken note.
        """
        return sorted({str(self._entrance(kind)) for kind in self._folders})

    def _entrance(self, kind: str) -> Path:
        is_second = self._is_second or kind == NETWORK
        return self._folders[kind] / ("cgroup.procs" if is_second else "tasks")

    def has_run_out(self) -> bool:
        """Whether the kernel ended something in it for want of memory."""
        name = "memory.events" if self._is_second else "memory.oom_control"
        lines = _read(self._folders["memory"] / name).splitlines()
        return any(line.startswith("oom_kill ") and not line.endswith(" 0") for line in lines)

    def peak_bytes(self) -> int:
        """The most memory that it had at once; 0 if that is not told."""
        name = "memory.peak" if self._is_second else "memory.max_usage_in_bytes"
        text = _read(self._folders["memory"] / name).strip()
        return int(text) if text.isdecimal() else 0

    def remove(self) -> None:
        """Let it go, when all in it have ended; waits for the kernel a little."""
        until = time.monotonic() + REMOVE_SECONDS
        for folder in self._of_any():
            while not _is_removed(folder):
                if time.monotonic() > until:
                    log.warning("the control group %s cannot be removed", folder)
                    break
                time.sleep(0.005)

    def _of_any(self) -> set[Path]:
        return set(self._folders.values())


class Groups:
    """Where groups of runners are made. Find it with `found`."""

    def __init__(self, folders: Mapping[str, Path], *, is_second: bool) -> None:
        self._folders = folders
        self._is_second = is_second

    @property
    def version(self) -> int:
        """1 or 2."""
        return 2 if self._is_second else 1

    @property
    def without_internet(self) -> str:
        """Why a group cannot have the internet alone; "" if it can."""
        return network.missing(self._folders.get(NETWORK))

    def make(self, limits: RunnerLimits) -> Group:
        """A new group. Raises OSError."""
        # Agents in two containers may have the same id, and see the same groups.
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(8)}"
        is_restricted = limits.network == "internet"
        folders = {
            kind: folder / name
            for kind, folder in self._folders.items()
            if self._is_second or _is_needed(kind, limits)
        }
        group = Group(folders, is_second=self._is_second)
        try:
            for folder in set(folders.values()):
                folder.mkdir(exist_ok=True)
            self._write(folders, limits)
            if is_restricted:
                network.restrict(folders[NETWORK])
        except OSError:
            group.remove()
            raise
        return group

    def _write(self, folders: Mapping[str, Path], limits: RunnerLimits) -> None:
        write = _write_second if self._is_second else _write_first
        write(folders, limits)

    def sweep(self) -> None:
        """Remove the empty groups that earlier agents left."""
        for folder in self._folders.values():
            for left in folder.glob(f"{PREFIX}*-*"):
                # Another's may be empty because its runner is only about to be put in.
                if not is_alive(_agent_of(left)):
                    _is_removed(left)


def _is_needed(kind: str, limits: RunnerLimits) -> bool:
    """Whether a group of version 1 limits that; each takes time to make and to enter."""
    if kind == NETWORK:
        return limits.network == "internet"
    return kind != "cpu" or limits.cpus is not None


def _write_first(folders: Mapping[str, Path], limits: RunnerLimits) -> None:
    memory = str(limits.memory_bytes)
    (folders["memory"] / "memory.limit_in_bytes").write_text(memory)
    with contextlib.suppress(OSError):  # swap is not counted everywhere
        (folders["memory"] / "memory.memsw.limit_in_bytes").write_text(memory)
    (folders["pids"] / "pids.max").write_text(str(limits.processes))
    if limits.cpus is not None and "cpu" in folders:
        cpu = folders["cpu"]
        (cpu / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
        (cpu / "cpu.cfs_quota_us").write_text(str(int(limits.cpus * PERIOD_MICROSECONDS)))


def _write_second(folders: Mapping[str, Path], limits: RunnerLimits) -> None:
    folder = folders["memory"]
    (folder / "memory.max").write_text(str(limits.memory_bytes))
    with contextlib.suppress(OSError):
        (folder / "memory.swap.max").write_text("0")
    (folder / "pids.max").write_text(str(limits.processes))
    if limits.cpus is not None:
        quota = int(limits.cpus * PERIOD_MICROSECONDS)
        (folder / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")


def found() -> Groups | None:
    """Where this process can make groups; None where it cannot."""
    own = _own_paths(_read(Path("/proc/self/cgroup")))
    mounts = _mounts(_read(Path("/proc/self/mounts")))
    with contextlib.suppress(OSError):
        return _second(own, mounts) or _first(own, mounts)
    return None


def _own_paths(text: str) -> dict[str, str]:
    """The path of this process's group by controller, "" for version 2."""
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        paths.update(dict.fromkeys(names.split(","), path))
    return paths


def _mounts(text: str) -> dict[str, Path]:
    """Where each controller is mounted, "" for version 2."""
    mounts = {}
    for line in text.splitlines():
        _, folder, kind, options, *_ = line.split(" ")
        if kind == "cgroup2":
            mounts[""] = Path(folder)
        elif kind == "cgroup":
            mounts.update(dict.fromkeys(options.split(","), Path(folder)))
    return mounts


def _first(own: Mapping[str, str], mounts: Mapping[str, Path]) -> Groups | None:
    folders = {}
    for kind in ("memory", "pids", "cpu"):
        if kind in own and kind in mounts:
            inside = mounts[kind] / own[kind].lstrip("/")
            folder = inside if inside.is_dir() else mounts[kind]
            if os.access(folder, os.W_OK):
                folders[kind] = folder
    if "" in own and "" in mounts:
        folder = mounts[""] / own[""].lstrip("/")
        if os.access(folder, os.W_OK):
            folders[NETWORK] = folder
    return Groups(folders, is_second=False) if {"memory", "pids"} <= folders.keys() else None


def _second(own: Mapping[str, str], mounts: Mapping[str, Path]) -> Groups | None:
    if "" not in own or "" not in mounts:
        return None
    folder = mounts[""] / own[""].lstrip("/")
    if not {"memory", "pids"} <= set(_read(folder / "cgroup.controllers").split()):
        return None
    if not os.access(folder, os.W_OK) or not _is_ours(folder):
        return None
    # A group that has groups below it may hold no processes itself, only the root may.
    agents = folder / f"{PREFIX}agent"
    agents.mkdir(exist_ok=True)
    for pid in _read(folder / "cgroup.procs").split():
        (agents / "cgroup.procs").write_text(pid)
    for kind in ("memory", "pids", "cpu"):
        (folder / "cgroup.subtree_control").write_text(f"+{kind}")
    return Groups(dict.fromkeys(("memory", "pids", "cpu", NETWORK), folder), is_second=True)


def _is_ours(folder: Path) -> bool:
    """Whether nobody else's processes would be moved."""
    if _read(folder / "cgroup.procs").split() == [str(os.getpid())]:
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            return os.getxattr(folder, name) == b"1"
    return False


def _agent_of(group: Path) -> int:
    pid = group.name.removeprefix(PREFIX).partition("-")[0]
    return int(pid) if pid.isdecimal() else 0


def _is_removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
