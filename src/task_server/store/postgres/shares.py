"""Owners' shares on one of several servers: kept in memory, told to the others as differences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from task_server.scheduling.shares import Shares


class Ledger(Shares):
    """Shares as of the last look at all servers, with what this one has changed since.

    What a group changes is kept apart until its commit: `keep` it then, else `undo` it.
    """

    __slots__ = ("_active_before", "_before", "_lifts", "_moves", "lifted", "moved")

    def __init__(self, kept: dict[int, float], *, active: Iterable[int] = ()) -> None:
        super().__init__(kept, active=active)
        self.lifted: dict[int, float] = {}
        """Owner -> the share that it was lifted to: everybody lifts it to that, and only once."""
        self.moved: dict[int, float] = defaultdict(float)
        """Owner -> seconds charged here and not written yet."""
        self._begin_group()

    def _begin_group(self) -> None:
        self._before: dict[int, float | None] = {}
        self._active_before: set[int] | None = None
        self._lifts: dict[int, float] = {}
        self._moves: dict[int, float] = defaultdict(float)

    def begin(self, owners: Iterable[int], in_flight: Mapping[int, float] | None = None) -> None:
        """Before a deal: lift owners that come back from idle."""
        present = set(owners)
        if self._active_before is None:
            self._active_before = self.active
        returning = present - self.active
        shares = {owner: self._note(owner) for owner in returning}
        super().begin(present, in_flight)
        for owner, share in shares.items():
            if self.charged[owner] > share:
                self._lifts[owner] = self.charged[owner]

    def charge(self, owner: int, seconds: float) -> float:
        """Charge an owner; gives its share."""
        share = self._note(owner)
        super().charge(owner, seconds)
        self._moves[owner] += self.charged[owner] - share
        return self.charged[owner]

    def settle(self, owner: int, *, predicted: float, seconds: float) -> None:
        """Put what a finished attempt took in the place of what was predicted."""
        share = self._note(owner)
        super().settle(owner, predicted=predicted, seconds=seconds)
        self._moves[owner] += self.charged[owner] - share

    def _note(self, owner: int) -> float:
        share = self.charged.get(owner)
        self._before.setdefault(owner, share)
        return share or 0.0

    def keep(self) -> None:
        """The group is on disk."""
        self.lifted.update(self._lifts)
        for owner, seconds in self._moves.items():
            self.moved[owner] += seconds
        self._begin_group()

    def undo(self) -> None:
        """The group was not."""
        for owner, share in self._before.items():
            if share is None:
                self.charged.pop(owner, None)
            else:
                self.charged[owner] = share
        if self._active_before is not None:
            self.active = self._active_before
        self._begin_group()

    @property
    def is_written(self) -> bool:
        """True when there is nothing to tell."""
        return not self.moved and not self.lifted

    def take(self, shares: dict[int, float]) -> None:
        """All servers' sums, this one's changes among them."""
        self.charged = {**dict.fromkeys(self.active, 0.0), **shares}
        self.lifted.clear()
        self.moved.clear()
