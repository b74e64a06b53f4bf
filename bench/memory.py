"""How much memory processes take (Linux)."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

KIB_IN_MB = 1024 / 1e6


def pss_mb(processes: Iterable[int]) -> float:
    """Proportional set size: what several processes share counts once, in parts."""
    return sum(_field(process, "smaps_rollup", "Pss:") for process in processes)


def rss_mb(process: int) -> float:
    """What a process has in memory."""
    return _field(process, "status", "VmRSS:")


def peak_rss_mb(process: int) -> float:
    """The most that a process has had in memory."""
    return _field(process, "status", "VmHWM:")


def _field(process: int, file: str, name: str) -> float:
    for line in Path(f"/proc/{process}/{file}").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * KIB_IN_MB
    raise RuntimeError(f"{name} of process {process} is not told here")
