"""What a call, or many, is predicted to take."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, Struct, structs

from task_server.protocol import tasks as wire
from task_server.protocol.tasks import Basis, CallEstimate, EtaOnSlots, Quantiles

N = TypeVar("N", int, float)


class Estimate(Struct, frozen=True):
    """Predicted run time in seconds: of one call, or the sum over many on one core.

    With 80 % probability the time lies between `p10` and `p90`.
    """

    p10: float
    p50: float
    p90: float
    p99: float | None
    """None for a sum over many calls."""
    known: bool
    """False where nothing of this function was seen yet: then it is a wide guess."""
    basis: Basis | None
    """What it rests on; None for many calls."""
    unknown_tasks: int
    """How many of the calls are guesses."""
    eta: Quantiles | None
    """Seconds from now until all is done on the workers there are; None without workers."""
    install_seconds: float | None
    memory_bytes: int | None
    calls: list[CallEstimate]
    """One for each call, where the server sent them: of up to a thousand."""
    eta_by_slots: list[EtaOnSlots]
    """On the slots there are, and on twice and four times as many; none for what was submitted."""

    @property
    def core_seconds(self) -> Quantiles:
        """The total on one core."""
        return Quantiles(self.p10, self.p50, self.p90)


def estimate_of(reply: wire.Estimate, *, single: bool) -> Estimate:
    """From the server's reply."""
    calls = [] if reply.calls is UNSET else reply.calls
    one = calls[0] if single and calls else None
    total = reply.total.core_seconds
    return Estimate(
        p10=one.p10 if one else total.p10,
        p50=one.p50 if one else total.p50,
        p90=one.p90 if one else total.p90,
        p99=one.p99 if one else None,
        known=one.known if one else reply.total.unknown_tasks == 0,
        basis=one.basis if one else None,
        unknown_tasks=reply.total.unknown_tasks,
        eta=reply.eta,
        install_seconds=reply.install_seconds,
        memory_bytes=reply.memory_bytes,
        calls=calls,
        eta_by_slots=[] if reply.eta_by_slots is UNSET else reply.eta_by_slots,
    )


def sum_of(parts: list[Estimate]) -> Estimate:
    """One estimate for the parts of a batch; the last part's ETA is that of all."""
    last = parts[-1]
    return Estimate(
        # The sum of quantiles is wider than the quantiles of the sum: it never promises too much.
        p10=sum(part.p10 for part in parts),
        p50=sum(part.p50 for part in parts),
        p90=sum(part.p90 for part in parts),
        p99=None,
        known=all(part.known for part in parts),
        basis=None,
        unknown_tasks=sum(part.unknown_tasks for part in parts),
        eta=last.eta,
        install_seconds=last.install_seconds,
        memory_bytes=last.memory_bytes,
        calls=[call for part in parts for call in part.calls],
        eta_by_slots=last.eta_by_slots,
    )


def joined(one: Estimate, other: Estimate) -> Estimate:
    """One estimate for two parts of a batch of which nothing was submitted yet.

    Each part's ETA is that of the part alone, behind what waits: the other's work comes on top. It
    lists no calls, lest a generator's are all held.
    """
    both = sum_of([one, other])
    slots = other.eta_by_slots[0].slots if other.eta_by_slots else 0
    return structs.replace(
        both,
        eta=None if other.eta is None else _behind(other.eta, one, slots),
        calls=[],
        eta_by_slots=[
            EtaOnSlots(each.slots, _behind(each.eta, one, each.slots))
            for each in other.eta_by_slots
        ],
        install_seconds=_larger(one.install_seconds, other.install_seconds),
        memory_bytes=_larger(one.memory_bytes, other.memory_bytes),
    )


def _behind(eta: Quantiles, work: Estimate, slots: int) -> Quantiles:
    share = 1 / max(slots, 1)
    return Quantiles(
        eta.p10 + work.p10 * share, eta.p50 + work.p50 * share, eta.p90 + work.p90 * share
    )


def _larger(one: N | None, other: N | None) -> N | None:
    known = [each for each in (one, other) if each is not None]
    return max(known) if known else None
