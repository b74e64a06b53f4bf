"""Memory that is kept free for tasks whose users state none, by what is known of their function."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from task_server.scheduling.memory import reserving, to_reserve
from task_server.scheduling.requires import requires_of
from task_server.scheduling.statistics import Statistics
from task_server.server.state import State
from task_server.store.kinds import KindSpec


def with_reserved(
    state: State,
    specs: Sequence[KindSpec],
    known: Sequence[Statistics | None],
    *,
    slot_bytes: int,
) -> list[KindSpec]:
    """The specs as they are stored, by what is `known` of each; short ones keep nothing free."""
    if state.settings.reserve_memory == "off":
        return list(specs)
    return [
        spec
        if each is None or each.is_short or not each.peaks.total
        else _reserved(spec, each, slot_bytes)
        for spec, each in zip(specs, known, strict=True)
    ]


def _reserved(spec: KindSpec, known: Statistics, slot_bytes: int) -> KindSpec:
    size = to_reserve(known.peaks, slot_bytes=slot_bytes)
    if not size:
        return spec
    requires = reserving(requires_of(spec.requires), size)
    text = "" if requires is None else requires.text
    return spec if text == spec.requires else msgspec.structs.replace(spec, requires=text)
