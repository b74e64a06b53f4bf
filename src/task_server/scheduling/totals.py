"""Totals of many calls."""

from __future__ import annotations

import math

from msgspec import Struct

from task_server.protocol.tasks import Quantiles

_Z90 = 1.2816


class Sum(Struct):
    """Core-seconds of many calls, as far as they add up: means and variances, never quantiles."""

    mean: float = 0.0
    variance: float = 0.0
    guessed: float = 0.0
    """Seconds of calls whose function was never measured."""

    def plus(self, other: Sum) -> Sum:
        """Of both."""
        return Sum(
            self.mean + other.mean, self.variance + other.variance, self.guessed + other.guessed
        )

    def quantiles(self) -> Quantiles:
        """A normal approximation; what is guessed is wide."""
        spread = _Z90 * math.sqrt(self.variance)
        low, high = max(self.mean - spread, self.mean / 10), self.mean + spread
        return Quantiles(
            low + self.guessed / 10, self.mean + self.guessed, high + self.guessed * 10
        )


class Ahead(Struct):
    """Everybody's open work and the slots for it, as of a moment ago."""

    until: float
    work: Sum
    slots: int
    slot_bytes: int = 0
    """Memory that each slot has for itself, on the worker with the least; 0: no worker says."""
