"""The calls of one runner, in order: those it has been given, then those that wait here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

from task_server.worker.calls import START_BITS, Call

WINDOW = 256
"""Calls with the runner at once: some milliseconds of no-ops. All but one can be taken back."""
STALE_FRAMES = 1024
"""Frames of calls that were taken back, at most, that the runner has still to skip."""


class Sent(NamedTuple):
    """A call that the runner has been given."""

    nonce: int
    call: Call


class CallQueue:
    """Knows which call is where; nonces go up by one."""

    def __init__(self, nonce: int) -> None:
        self._nonce = self._answered = nonce
        self._sent: deque[Sent] = deque()
        self._waiting: deque[Call] = deque()

    def __len__(self) -> int:
        return len(self._sent) + len(self._waiting)

    @property
    def first(self) -> Sent | None:
        """The call that runs or is next to; None when the runner has been given none."""
        return self._sent[0] if self._sent else None

    @property
    def given(self) -> int:
        """How many the runner has been given."""
        return len(self._sent)

    def add(self, calls: Iterable[Call]) -> None:
        """Put calls at the end."""
        self._waiting.extend(calls)

    def give(self) -> Sent | None:
        """The next call for the runner; None when it has enough, or there is none."""
        if not self._waiting or not self._has_room():
            return None
        self._nonce += 1
        sent = Sent(self._nonce, self._waiting.popleft())
        self._sent.append(sent)
        return sent

    def _has_room(self) -> bool:
        if not self._sent:
            return True
        return len(self._sent) < WINDOW and self._nonce - self._answered < STALE_FRAMES

    def done(self) -> None:
        """The first call is answered."""
        self._answered = self._sent.popleft().nonce

    def last(self, count: int) -> set[str]:
        """Leases of the last calls."""
        leases = [sent.call.lease for sent in self._sent]
        leases += [call.lease for call in self._waiting]
        return set(leases[-count:]) if count > 0 else set()

    def has(self, lease: str) -> bool:
        """Whether it is here and not answered."""
        return lease in self.last(len(self))

    def take(self, wanted: Collection[str], recall: Callable[[], list[int]]) -> Taken:
        """Take out calls that have not started; `recall` gives the permissions not used yet."""
        taken = [call for call in self._waiting if call.lease in wanted]
        self._waiting = deque(call for call in self._waiting if call.lease not in wanted)
        if not any(sent.call.lease in wanted for sent in self._sent):
            return Taken(taken, [])
        starts = recall()
        unstarted = set(starts)
        gone = {
            sent.nonce & START_BITS: sent.call
            for sent in self._sent
            if sent.call.lease in wanted and sent.nonce & START_BITS in unstarted
        }
        self._sent = deque(sent for sent in self._sent if sent.nonce & START_BITS not in gone)
        return Taken([*gone.values(), *taken], [start for start in starts if start not in gone])

    def drain(self) -> list[Call]:
        """Take out all."""
        calls = [sent.call for sent in self._sent] + list(self._waiting)
        self._sent.clear()
        self._waiting.clear()
        return calls


class Taken(NamedTuple):
    """Calls taken out, and the permissions to be given back to the runner."""

    calls: list[Call]
    starts: list[int]
