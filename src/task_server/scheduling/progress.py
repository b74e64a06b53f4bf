"""How fast a batch really goes, beside what was predicted of its calls.

Predicted run times leave out what lies between two calls on a slot, and what a machine that does
other work takes longer than it did. Both are seen in the batch itself: slots were there for so
many seconds, and calls of so many predicted seconds began meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from msgspec import Struct
from msgspec.structs import replace

from task_server.protocol.tasks import Quantiles

PRIOR_CALLS = 3.0
"""So many calls at the predicted pace are taken to have been seen before the first."""
KEPT_CALLS = 50.0
"""What was seen counts half as much after so many more: a machine's load changes."""
SLOWEST, FASTEST = 10.0, 0.1
SPREAD, DRIFT = 1.0, 0.25
"""Of logarithms: of one call's pace, by which little is known of the batch's, and of what is still
to come beside what was seen. By both the ETA is wider than the prediction."""
EARLIER_SECONDS, LATER_SECONDS = 0.2, 0.3
"""By so much runners that start, flushes of disks and other work of a machine move any end: what is
done in a second cannot be told better."""
_NINETIETH = 1.2816


class Look(Struct, frozen=True):
    """What was seen of a batch at one moment, to be held against the next."""

    at: float
    since: float
    """When the last of those before these began, or was seen to have."""
    ended: int
    waiting: Mapping[int, float]
    """Members that waited, or some of them, in the order in which they start -> predicted seconds;
    never none."""
    calls: int
    """How many waited."""
    core_seconds: float
    """Predicted of all of these."""
    slots: int
    is_alone: bool
    """Nothing else of weight was on the slots, or went first."""

    @property
    def tells(self) -> bool:
        """Whether what follows tells of the batch: a build, or others, may take the time."""
        return self.is_alone and self.ended > 0

    def following(self, before: Look, *, still_waiting: Collection[int]) -> Look:
        """The same, after another look: time in which nothing began counts once something does."""
        if not before.tells or any(number not in still_waiting for number in before.waiting):
            return self
        return replace(self, since=before.since)


class Pace(Struct, frozen=True):
    """What came of the looks at a batch so far."""

    logarithms: float = 0.0
    """Sum over calls: of how many times as long as predicted they took of their slots."""
    calls: float = 0.0

    @property
    def factor(self) -> float:
        """How many times as long as predicted things take."""
        return math.exp(self.logarithms / (self.calls + PRIOR_CALLS))

    def after(self, look: Look, *, at: float, still_waiting: Collection[int]) -> Pace:
        """With what happened since a look; `still_waiting`: of the members that it saw."""
        begun = sum(s for number, s in look.waiting.items() if number not in still_waiting)
        if not (look.tells and begun > 0.0 and at > look.since):
            return self
        seen = sum(look.waiting.values())
        predicted = look.core_seconds * begun / seen
        calls = look.calls * sum(n not in still_waiting for n in look.waiting) / len(look.waiting)
        factor = min(max((at - look.since) * look.slots / max(predicted, 1e-9), FASTEST), SLOWEST)
        kept = KEPT_CALLS / (KEPT_CALLS + calls)
        return Pace(kept * self.logarithms + math.log(factor) * calls, kept * self.calls + calls)

    def rebased(self, before: Mapping[int, float], now: Mapping[int, float]) -> Pace:
        """The same beside new predictions of calls that wait still: what is learned is no pace."""
        both = before.keys() & now.keys()
        old, new = sum(before[each] for each in both), sum(now[each] for each in both)
        if not (old > 0.0 and new > 0.0):
            return self
        return Pace(self.logarithms - self.calls * math.log(new / old), self.calls)

    def corrected(self, eta: Quantiles) -> Quantiles:
        """An ETA at this pace, wider while little of it was seen."""
        factor = self.factor
        wider = math.exp(
            _NINETIETH * math.hypot(SPREAD / math.sqrt(self.calls + PRIOR_CALLS), DRIFT)
        )
        return Quantiles(
            max(eta.p10 * factor / wider - EARLIER_SECONDS, 0.0),
            eta.p50 * factor,
            eta.p90 * factor * wider + LATER_SECONDS,
        )


def later(
    eta: Quantiles, look: Look, pace: Pace, *, at: float, ended: int, total: int
) -> Quantiles:
    """An ETA of the moment of a look, as told a little later, when so many of all had ended.

    As many as ended are taken to have begun, in their order. What runs is at least half of a call.
    """
    begun = round((ended - look.ended) * len(look.waiting) / look.calls)
    still = list(look.waiting)[max(begun, 0) :]
    pace = pace.after(look, at=at, still_waiting=set(still))
    if begun > 0:
        share = sum(look.waiting[each] for each in still) / sum(look.waiting.values())
        share = max(share, 0.5 * (total - ended) / max(total - look.ended, 1))
        left = (seconds * share for seconds in (eta.p10, eta.p50, eta.p90))
    else:
        left = (max(s - (at - look.at), s / 20) for s in (eta.p10, eta.p50, eta.p90))
    return pace.corrected(Quantiles(*left))
