"""Fair share between owners: who was charged the least for their weight is served first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any


class Shares:
    """Seconds of work charged to each owner: predicted when leased, measured when finished.

    They are divided by the owner's weight: who has twice the weight gets twice the work.
    """

    __slots__ = ("_kept", "active", "charged", "floor", "is_fair", "weights")

    def __init__(self, kept: dict[int, float], *, active: Iterable[int] = ()) -> None:
        self.active = set(active)
        """Owners that had something to deal the last time."""
        self.charged = {**dict.fromkeys(self.active, 0.0), **kept}
        self.floor = max(kept.values(), default=0.0)
        """The least share of those; others are lifted to it when they come back."""
        self.is_fair = True
        """False: they are counted, and all owners are one."""
        self.weights: dict[int, float] = {}
        """Of the owners that are known; 1 for the others."""
        self._kept = dict(kept)

    def party(self, owner: int) -> int:
        """Who takes turns with others: the owner, or everybody as one."""
        return owner if self.is_fair else 0

    def turn(self, party: int) -> float:
        """Less for who is next."""
        return self.charged[party] if self.is_fair else 0.0

    def weighed(self, owner: int, seconds: float) -> float:
        """What an owner is charged for so many seconds."""
        return seconds / self.weights.get(owner, 1.0)

    def would_lift(self, owners: Iterable[int]) -> bool:
        """Whether `begin` needs to know what of the charges is a mere prediction."""
        returning = set(owners) - self.active
        if not self.active or not returning:
            return False
        least = min(self.charged[owner] for owner in self.active)
        return any(self.charged.get(owner, 0.0) < least for owner in returning)

    def begin(self, owners: Iterable[int], in_flight: Mapping[int, float] | None = None) -> None:
        """Before a deal: lift owners that come back from idle, so that idling saves up nothing.

        `in_flight`: seconds predicted of what each owner has running, less what it has run. They
        are charged, yet lift nobody: who comes back does not pay for a prediction that is too high.
        """
        predicted = in_flight or {}
        if self.active:
            floor = min(
                self.charged[owner] - self.weighed(owner, predicted.get(owner, 0.0))
                for owner in self.active
            )
            self.floor = max(floor, 0.0)
        present = set(owners)
        for owner in present - self.active:
            self.charged[owner] = max(self.charged.get(owner, 0.0), self.floor)
        self.active = present

    def charge(self, owner: int, seconds: float) -> float:
        """Charge an owner; gives its share."""
        share = self.charged.get(owner, 0.0) + self.weighed(owner, seconds)
        self.charged[owner] = share
        return share

    def settle(self, owner: int, *, predicted: float, seconds: float) -> None:
        """Put what a finished attempt took in the place of what was predicted."""
        share = self.charged.get(owner, 0.0) + self.weighed(owner, seconds - predicted)
        self.charged[owner] = max(share, 0.0)

    def unsaved(self) -> list[tuple[int, float]]:
        """Owner and share of those that changed since the last call."""
        changed = [
            (owner, share)
            for owner, share in self.charged.items()
            if self._kept.get(owner) != share
        ]
        self._kept.update(changed)
        return changed


def weights_of(
    owners: Collection[int],
    named: Iterable[Sequence[Any]],
    weights: Iterable[tuple[str, float]],
) -> dict[int, float]:
    """Weights of owners, and of all who have a name: `named` are numbers with names."""
    by_name = dict(weights)
    found = dict.fromkeys(owners, 1.0)
    found.update((owner, by_name.get(name, 1.0)) for owner, name in named)
    return found
