"""What is measured once, after the rounds, with servers of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from bench.backlog import queued_million
from bench.bed import Place
from bench.figures import Figure
from bench.first_calls import first_calls
from bench.fleets import busy_workers, idle_workers, waiting_callers
from bench.sizes import Size
from bench.standing import idle_memory, memory_after_many


class Once(Struct, frozen=True):
    """Something to measure."""

    measure: Callable[[Place, Path | None, Size], list[Figure]]
    is_long: bool = False
    """Takes minutes: only when asked for."""
    needs_index: bool = False
    """Of packages, which may be slow or away."""


ONCE: dict[str, Once] = {
    "first-calls": Once(first_calls, needs_index=True),
    "idle-memory": Once(idle_memory),
    "idle-workers": Once(idle_workers),
    "busy-workers": Once(busy_workers),
    "waiting-callers": Once(waiting_callers),
    "backlog": Once(queued_million, is_long=True),
    "memory": Once(memory_after_many, is_long=True),
}
"""By the name that `--only` takes."""
