"""How much memory a function's calls take at their peak, and what is kept free for the next one."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from operator import add

from task_server.scheduling.requires import NOTHING, Requires

MIB = 1 << 20
BINS_PER_DOUBLING = 4
BINS = 80
"""Up to 2^20 MiB."""
LEVEL = 0.95
"""Of the calls that many have to fit in what is kept free."""
LEAST_RESERVED = 128 * MIB
"""For what takes no more than that nothing is kept: any slot has it."""
REMEMBERED = 1000
"""Calls, after which older ones count half: functions change."""


class Peaks:
    """Counts of calls by their peak of memory, on a logarithmic scale."""

    __slots__ = ("counts", "total")

    def __init__(self, data: bytes = b"") -> None:
        self.counts = array("I", data or bytes(4 * BINS))
        self.total = sum(self.counts)

    def add_all(self, peaks: Iterable[int]) -> None:
        """Count calls; 0 bytes: the worker could not tell."""
        for peak in peaks:
            if peak > 0:
                self.counts[_bin_of(peak)] += 1
                self.total += 1
        if self.total > REMEMBERED:
            # Rounded up: the one call in a hundred that takes much is not forgotten first.
            self.counts = array("I", ((count + 1) // 2 for count in self.counts))
            self.total = sum(self.counts)

    def high(self) -> int:
        """Power of two in bytes that enough calls stay below; 0 when none was counted."""
        if not self.total:
            return 0
        return MIB << -(-self._edge() // BINS_PER_DOUBLING)

    def fits(self, size: int) -> bool:
        """Whether enough calls stay below so many bytes."""
        return self.total > 0 and MIB * 2.0 ** (self._edge() / BINS_PER_DOUBLING) <= size

    def _edge(self) -> int:
        """The upper edge of the bin in which the level lies."""
        wanted, below = LEVEL * self.total, 0
        for index, count in enumerate(self.counts):
            below += count
            if below >= wanted:
                return index + 1
        return BINS

    def include(self, other: Peaks) -> None:
        """Count what the other has counted, too."""
        self.counts = array("I", map(add, self.counts, other.counts))
        self.total += other.total

    def to_bytes(self) -> bytes:
        """What `Peaks(data)` takes."""
        return self.counts.tobytes() if self.total else b""


def _bin_of(peak: int) -> int:
    position = math.ceil(math.log2(max(peak, MIB) / MIB) * BINS_PER_DOUBLING) - 1
    return min(max(position, 0), BINS - 1)


def to_reserve(peaks: Peaks, *, slot_bytes: int) -> int:
    """Bytes to keep free for a call; 0: nothing.

    `slot_bytes`: what a slot of the worker with the least has for itself. Where enough calls fit in
    it no more is kept: rounded up, two of them would not run beside each other, though they can.
    """
    high = peaks.high()
    if high <= LEAST_RESERVED:
        return 0
    return slot_bytes if high > slot_bytes and peaks.fits(slot_bytes) else high


def reserving(requires: Requires | None, size: int) -> Requires | None:
    """What a task requires, with so many bytes kept free where it states no memory itself."""
    stated = requires or NOTHING
    if stated.memory or not size:
        return requires
    return Requires(stated.cpu, 0, stated.gpu, stated.labels, size)


def after_running_out(requires: Requires | None, peak_bytes: int) -> Requires | None:
    """What a task requires that ran out of memory at that peak: the next power of two is kept."""
    reserved = requires.reserved if requires is not None else 0
    if not peak_bytes and not reserved:
        return requires
    return reserving(requires, max(_above(peak_bytes), _above(reserved), 2 * LEAST_RESERVED))


def needed_after(peak_bytes: int) -> int:
    """What a call that ran out of memory at that peak is counted as: nobody knows its real one."""
    return _above(peak_bytes) if peak_bytes else 0


def _above(size: int) -> int:
    """The least power of two above."""
    return 1 << size.bit_length()
