"""What tasks require of a worker, and what of it a worker has free."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec import Struct

ROUNDING = 1e-9
"""Sums of cores are not exact."""


class Requires(Struct, frozen=True, omit_defaults=True):
    """What one task requires; nothing of what is 0 or empty."""

    cpu: float = 0.0
    """Cores."""
    memory: int = 0
    """Bytes."""
    gpu: int = 0
    labels: tuple[tuple[str, str], ...] = ()
    """Names and values that the worker's labels have to have, by name."""
    reserved: int = 0
    """Bytes that are kept free for it by what is known of its function; nothing it has stated."""

    @property
    def text(self) -> str:
        """The one way to write it, empty for nothing; `requires_of` reads it."""
        return _texts.encode(self).decode() if self != NOTHING else ""

    @property
    def takes(self) -> bool:
        """Whether a task takes something that others then cannot have."""
        return bool(self.cpu or self.memory or self.gpu or self.reserved)

    @property
    def stated(self) -> Requires:
        """What its user has said."""
        return Requires(self.cpu, self.memory, self.gpu, self.labels)


NOTHING = Requires()
_texts = msgspec.json.Encoder()
_requires = msgspec.json.Decoder(Requires)


@lru_cache(4096)
def requires_of(text: str) -> Requires | None:
    """What `Requires.text` wrote; None for nothing."""
    return _requires.decode(text) if text else None


class Free:
    """What a worker has free of cores, memory and GPUs, and the labels it has.

    A task that states no cores takes its slot's share of them; so cores are counted in slots.
    """

    __slots__ = ("all_gpu", "all_memory", "cpu", "gpu", "labels", "memory", "slots")

    def __init__(
        self,
        *,
        slots: int,
        cpu: float | None,
        memory: int | None,
        gpu: int,
        labels: Mapping[str, str],
    ) -> None:
        self.slots = slots
        """All of them."""
        self.cpu = cpu or 0.0
        """All cores; 0 where the worker does not say."""
        self.memory = self.all_memory = memory or 0
        self.gpu = self.all_gpu = gpu
        self.labels = labels

    def slots_for(self, requires: Requires) -> int:
        """How many slots a task takes, so that no core is promised twice."""
        if not requires.cpu or not self.cpu:
            return 1
        return max(math.ceil(requires.cpu * self.slots / self.cpu - ROUNDING), 1)

    def could(self, requires: Requires) -> bool:
        """Whether that is free when nothing runs."""
        if requires.memory > self.all_memory or requires.gpu > self.all_gpu:
            return False
        return self.has_cpu(requires) and self.has_labels(requires)

    def has(self, requires: Requires, *, slots: int) -> bool:
        """Whether that is free now, where so many slots are."""
        if self.memory_for(requires) > max(self.memory, 0):
            return False
        if requires.gpu and requires.gpu > self.gpu:
            return False
        if not self.has_cpu(requires) or not self.has_labels(requires):
            return False
        return self.slots_for(requires) <= slots

    def memory_for(self, requires: Requires) -> int:
        """Bytes that a task takes here. A mere prediction never keeps it from a whole worker."""
        return requires.memory or min(requires.reserved, self.all_memory)

    def has_cpu(self, requires: Requires) -> bool:
        """Whether there are so many cores, free or not."""
        return not requires.cpu or requires.cpu <= self.cpu + ROUNDING

    def has_labels(self, requires: Requires) -> bool:
        """Whether the labels are those."""
        labels = self.labels
        return all(labels.get(name) == value for name, value in requires.labels)

    def copy(self) -> Free:
        """One that is counted apart."""
        return Free(
            slots=self.slots, cpu=self.cpu, memory=self.memory, gpu=self.gpu, labels=self.labels
        )

    def take(self, requires: Requires) -> int:
        """Count what a task takes; gives the number of slots."""
        self.memory -= self.memory_for(requires)
        self.gpu -= requires.gpu
        return self.slots_for(requires)
