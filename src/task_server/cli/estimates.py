"""Estimates in words."""

from __future__ import annotations

from collections.abc import Iterator

from task_server.client.durations import duration, span
from task_server.client.estimate import Estimate
from task_server.protocol.tasks import Basis

_MIB = 1024 * 1024


def in_words(told: Estimate) -> Iterator[str]:
    """A line on the time, and one on each other thing that is known."""
    yield f"{duration(told.p50)}, most likely {span(told.p10, told.p90)}{_doubt(told)}"
    if told.basis is not None and told.known:
        high = "" if told.p99 is None else f"99 of 100 take at most {duration(told.p99)}; "
        yield high + _basis(told.basis)
    if told.eta is None:
        yield "there is no worker"
    for each in told.eta_by_slots:
        slots = f"{each.slots:,} slot{'s' * (each.slots != 1)}"
        yield f"done in {span(each.eta.p10, each.eta.p90)} on {slots}"
    if told.memory_bytes:
        yield f"up to {told.memory_bytes / _MIB:,.0f} MiB of memory"
    if told.install_seconds and told.install_seconds >= 0.05:
        yield f"{duration(told.install_seconds)} to install what it needs"


def _doubt(told: Estimate) -> str:
    if told.known:
        return ""
    if told.unknown_tasks > 1:
        return f" ({told.unknown_tasks:,} calls are guesses: nothing of them was seen yet)"
    return " (a guess: nothing of this function was seen yet)"


def _basis(basis: Basis) -> str:
    calls = f"from {basis.calls:,} call{'s' * (basis.calls != 1)}"
    if basis.error_factor is None:
        return calls
    return f"{calls}, off by a factor of {basis.error_factor:.2g} so far"
