"""How much a runner may use, and the kernel's limits that say so."""

from __future__ import annotations

import os
from typing import get_args

from msgspec import Struct
from msgspec.structs import replace

from task_server.protocol.workers import Limits
from task_server.worker.sandbox.layers import Layers, Network

NETWORKS: tuple[Network, ...] = get_args(Network)

GIB = 1 << 30
LEAST_MEMORY = 64 << 20
"""Bytes; with less a runner does not start."""
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
    is_share: bool = True
    """That is a slot's share of the machine's memory; else a bound that somebody set."""
    processes: int = 512
    """Threads count too."""
    file_bytes: int = 4 * GIB
    """Of each file."""
    cpus: float | None = None
    """None: as many as there are."""
    network: Network = "full"
    has_gpus: bool = False
    """Their drivers take address space without end."""

    def at_most(self, asked: Limits, *, memory_bytes: int) -> RunnerLimits:
        """These with what a task asks for, never more than these, but for what it requires.

        That is memory, up to so much, and processors: the server deals only what is there.

        Raises ValueError for what is not built.
        """
        network = asked.network or self.network
        if network not in NETWORKS:
            raise ValueError(f"network {network!r} is not built; there are {', '.join(NETWORKS)}")
        memory = asked.memory or max(self.memory_bytes, self._grown(asked))
        return RunnerLimits(
            memory_bytes=min(max(memory, LEAST_MEMORY), memory_bytes),
            is_share=self.is_share,
            processes=min(asked.processes or self.processes, self.processes),
            file_bytes=min(asked.file_bytes or self.file_bytes, self.file_bytes),
            cpus=asked.cpu or self.cpus,
            network=min(network, self.network, key=NETWORKS.index),
            has_gpus=bool(asked.gpus),
        )

    def told_apart(self, asked: Limits | None) -> Limits | None:
        """What is asked for, without what a runner with these limits has anyway."""
        if asked is None or asked.reserved is None or self._grown(asked) > self.memory_bytes:
            return asked
        left = replace(asked, reserved=None)
        return None if left == Limits() else left

    def _grown(self, asked: Limits) -> int:
        """What a task may take by what its function took; nobody has asked for that."""
        return asked.reserved or 0 if self.is_share else 0


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
    if not layers.cgroup and not limits.has_gpus:
        wanted["RLIMIT_AS"] = ADDRESS_FACTOR * limits.memory_bytes
    return wanted
