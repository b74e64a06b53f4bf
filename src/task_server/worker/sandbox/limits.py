"""How much a runner may use, and the kernel's limits that say so."""

from __future__ import annotations

import os

from msgspec import Struct

from task_server.worker.sandbox.layers import Layers

GIB = 1 << 30
SHARE_OF_MEMORY = 0.8
"""Of the machine's, for all slots together."""
OPEN_FILES = 1024
STACK_BYTES = 64 << 20
ADDRESS_FACTOR = 2
"""Where the kernel does not count memory, address space is limited to this many times as much."""
OOM_SCORE = 900
"""When the machine runs out of memory, runners go before the agent."""


class RunnerLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one runner with all that it starts."""

    memory_bytes: int
    processes: int = 512
    """Threads count too."""
    file_bytes: int = 4 * GIB
    """Of each file."""
    cpus: float | None = None
    """None: as many as there are."""


def share_of_memory(slots: int) -> int:
    """What each of so many slots may take of this machine's memory, in bytes."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(total * SHARE_OF_MEMORY / slots)


def kernel_limits(limits: RunnerLimits, layers: Layers, *, own_threads: int) -> dict[str, int]:
    """Names of `resource` and their values.

    `own_threads` is what the user of the runner has running beside it: the kernel counts processes
    by user, and these must not use up what the runner may start.
    """
    wanted = {
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": OPEN_FILES,
        "RLIMIT_FSIZE": limits.file_bytes,
        "RLIMIT_STACK": STACK_BYTES,
        "RLIMIT_NPROC": limits.processes + own_threads,
    }
    if not layers.cgroup:
        wanted["RLIMIT_AS"] = ADDRESS_FACTOR * limits.memory_bytes
    return wanted
