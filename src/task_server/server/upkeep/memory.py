"""How much memory this process uses, and how much it may (Linux; elsewhere that is not known)."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(statm: Path = Path("/proc/self/statm")) -> int:
    """What this process has in memory; 0 where that is not known."""
    try:
        return int(statm.read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def available_bytes() -> int:
    """What this process may have at most: the least of the machine's memory and its groups'."""
    limits = [os.sysconf("SC_PHYS_PAGES") * _PAGE_BYTES]
    for file in _group_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")):
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # not there, or `max`
            continue
    return min(limits)


def _group_limits(groups: Path, root: Path) -> Iterator[Path]:
    """The files of all limits above this process, of either version of control groups."""
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _upwards(root, path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _upwards(root / "memory", path, "memory.limit_in_bytes")


def _upwards(root: Path, path: str, name: str) -> Iterator[Path]:
    folder = root / path.lstrip("/")
    while folder.is_relative_to(root):
        yield folder / name
        folder = folder.parent


def give_back() -> None:
    """Return to the system what was freed but kept for later."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
