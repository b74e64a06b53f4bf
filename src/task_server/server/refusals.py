"""Workers that are heard of and take no tasks, so that `explain` can say it.

Each server knows of those that exchange with it, from when they ask, before it is known whether
they may: only words hang on it.
"""

from __future__ import annotations

from typing import Literal

from task_server.protocol.workers import Exchange

MAXIMUM = 10_000
"""Workers remembered; those that refused last stay."""

Refusal = Literal["draining", "paused"]
"""It stops; or it asks for nothing now, as its disk is full or all its slots are stuck."""


class Refusals:
    """By worker, as its id travels."""

    def __init__(self) -> None:
        self._why: dict[str, Refusal] = {}

    def note(self, worker: str, asked: Exchange) -> None:
        """What an exchange says of it. One that does not wait may bring reports alone."""
        if asked.draining:
            self._refuse(worker, "draining")
        elif asked.wait > 0.0 and not asked.want:
            self._refuse(worker, "paused")
        elif asked.want and self._why:
            self._why.pop(worker, None)

    def _refuse(self, worker: str, why: Refusal) -> None:
        self._why.pop(worker, None)
        self._why[worker] = why
        if len(self._why) > MAXIMUM:
            del self._why[next(iter(self._why))]

    def joined(self, worker: str) -> None:
        """It begins anew."""
        self._why.pop(worker, None)

    def why(self, worker: str, *, has_room: bool) -> Refusal | None:
        """Why it takes none. What has no room asks for nothing either, and that is no refusal."""
        found = self._why.get(worker)
        return None if found == "paused" and not has_room else found
