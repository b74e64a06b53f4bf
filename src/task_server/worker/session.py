"""One session at the server: its numbers, and what the server has been told. No I/O."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Literal

from task_server.protocol.workers import (
    EnvironmentState,
    Exchange,
    Held,
    Joined,
    OrderState,
    Report,
)

PARK_SHARE = 0.8
"""A parked exchange lasts up to a third of the lease, shortened by up to a fifth at random."""
DECISIONS_WITHIN = 0.008
"""Seconds for tasks to come along with what is said of reports; then those are put on disk."""
MARGIN_SECONDS = 5.0
"""Before a lease runs out, a twelfth of a shorter one: what may start only once is ended then."""

EnvironmentWord = Literal["building", "ready", "failed", "removed"]


class Session:
    """Makes the exchanges of a session, in order."""

    def __init__(self) -> None:
        self.worker = ""
        self.id = ""
        self._lease_seconds = 60.0
        self._number = 0
        self._seen = 0
        self._list_held_at = 0.0
        self._renewed_at = 0.0
        self._told: dict[str, str] = {}

    def begin(self, joined: Joined, *, asked_at: float) -> None:
        """A new session: nothing has been told in it."""
        self._renewed_at = asked_at
        self.worker, self.id = joined.worker, joined.session
        self._lease_seconds = joined.lease_seconds
        self._number = self._seen = 0
        self.doubt()

    def is_new(self) -> bool:
        """Whether nothing was said in it yet."""
        return self._number == 0

    def doubt(self) -> None:
        """An exchange failed, so a reply may be lost: tell all that is held the next time."""
        self._list_held_at = 0.0
        self._told = {}

    def saw(self, number: int, *, asked_at: float) -> None:
        """A reply arrived to what was asked at that moment (monotonic), or later."""
        self._seen = max(self._seen, number)
        self._renewed_at = max(self._renewed_at, asked_at)

    def is_doubtful(self) -> bool:
        """Whether its leases may soon have run out at the server, as no reply came for so long."""
        margin = min(MARGIN_SECONDS, self._lease_seconds / 12)
        return time.monotonic() - self._renewed_at > self._lease_seconds - margin

    def news(self, states: Mapping[str, EnvironmentWord]) -> list[EnvironmentState]:
        """States of environments that the server does not know."""
        return [
            EnvironmentState(digest, state)
            for digest, state in states.items()
            if self._told.get(digest) != state
        ]

    def report(self, reports: list[Report], *, is_parked: bool, draining: bool) -> Exchange:
        """Reports alone, beside the parked exchange.

        Its number is lower than the parked one's, so that it does not end that.
        """
        number = self._number - 1
        if not is_parked or number < 1:  # what is parked may be of the session before
            number = self._number = self._number + 1
        return Exchange(
            session=self.id, number=number, seen=self._seen, draining=draining, reports=reports
        )

    def ask(
        self,
        reports: list[Report],
        *,
        want: int,
        waits: bool,
        draining: bool,
        held: Callable[[], list[Held]],
        states: Mapping[str, EnvironmentWord],
        orders: list[OrderState],
    ) -> Exchange:
        """The newest exchange: it renews, takes tasks, and now and then lists all that is held."""
        now = time.monotonic()
        listed = None
        if now >= self._list_held_at:
            listed = held()
            self._list_held_at = now + self._lease_seconds / 3
        news = self.news(states)
        self._told.update({each.digest: each.state for each in news})
        self._number += 1
        return Exchange(
            session=self.id,
            number=self._number,
            seen=self._seen,
            want=want,
            wait=self._lease_seconds / 3 * random.uniform(PARK_SHARE, 1.0) if waits else 0.0,
            decisions_within=DECISIONS_WITHIN if waits and reports and not draining else 0.0,
            draining=draining,
            reports=reports,
            held=listed,
            environments=news,
            orders=orders,
        )
