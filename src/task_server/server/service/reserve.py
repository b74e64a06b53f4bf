"""Memory that is kept free for tasks whose users state none, by what is known of their function."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from task_server.scheduling.memory import reserving, to_reserve
from task_server.scheduling.requires import requires_of
from task_server.server.state import State
from task_server.store.kinds import KindSpec


def with_reserved(state: State, specs: Sequence[KindSpec], *, slot_bytes: int) -> list[KindSpec]:
    """The specs as they are stored; short functions have nothing kept free."""
    if state.settings.reserve_memory == "off":
        return list(specs)
    return [_reserved(state, spec, slot_bytes) for spec in specs]


def _reserved(state: State, spec: KindSpec, slot_bytes: int) -> KindSpec:
    known = state.store.statistics(spec.function_key)
    if known is None or known.is_short or not known.peaks.total:
        return spec
    size = to_reserve(known.peaks, slot_bytes=slot_bytes)
    if not size:
        return spec
    requires = reserving(requires_of(spec.requires), size)
    text = "" if requires is None else requires.text
    return spec if text == spec.requires else msgspec.structs.replace(spec, requires=text)
