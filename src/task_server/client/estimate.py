"""What a call, or many, is predicted to take."""

from __future__ import annotations

from msgspec import UNSET, Struct

from task_server.protocol import tasks as wire
from task_server.protocol.tasks import Basis, CallEstimate, Quantiles


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
    """One for each call, where the server sent them."""

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
    )
