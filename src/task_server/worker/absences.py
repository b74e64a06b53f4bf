"""How long to leave an environment alone when the package index is away."""

from __future__ import annotations

from typing import NamedTuple

FIRST_WAIT_SECONDS = 2.0
LONGEST_WAIT_SECONDS = 60.0


class _Absence(NamedTuple):
    wait_seconds: float
    until: float


class Absences:
    """For each environment that could not be built for that reason, when to try again."""

    def __init__(self) -> None:
        self._by_environment: dict[str, _Absence] = {}

    def has(self, environment: str) -> bool:
        """Whether the index was away when it was last to be built."""
        return environment in self._by_environment

    def note(self, environment: str, now: float) -> float:
        """The index is away at `now` (monotonic); seconds to wait: twice as long as before.

        Tasks that waited for the same build wait equally long.
        """
        before = self._by_environment.get(environment)
        if before is None:
            wait = FIRST_WAIT_SECONDS
        elif now < before.until:
            return before.until - now
        else:
            wait = min(2 * before.wait_seconds, LONGEST_WAIT_SECONDS)
        self._by_environment[environment] = _Absence(wait, now + wait)
        return wait

    def forget(self, environment: str) -> None:
        """It was built."""
        self._by_environment.pop(environment, None)
