"""Placement: which of several workers comes first, and when a task waits for a better one."""

from __future__ import annotations

import math
from collections.abc import Iterable

LONG_SECONDS = 0.1
"""Runs that are predicted to be shorter do not tell how fast a worker is, nor care."""
INSTALL_SECONDS = 0.5
"""An environment that is built sooner is not worth waiting for."""
_STEP = math.log(1.25)
"""Workers that differ by less are alike."""
_PRIOR_RUNS = 5
_RUNS = 50
_MOST = math.log(100.0)
_AGAIN = 10.0
"""After so many times what a build takes its tasks may wait once more."""
MAXIMUM_KNOWN = 10_000


class Placement:
    """How fast workers are beside each other, and how long environments take to build."""

    __slots__ = ("_installs", "_slowness", "_unsaved", "_waiting")

    def __init__(self) -> None:
        self._slowness: dict[int, tuple[int, float]] = {}
        """Worker -> runs, and the mean of log(measured / predicted), of late."""
        self._unsaved: set[int] = set()
        self._installs: dict[str, float] = {}
        """Environment -> seconds of its last build."""
        self._waiting: dict[str, float] = {}
        """Environment -> since when its tasks wait for a worker that has it."""

    # ---- what is learned, from runs that end

    def note_run(self, worker: int, *, predicted: float, seconds: float) -> None:
        """A worker took so long for what was predicted; negative: a guess, which says nothing."""
        if predicted < LONG_SECONDS or seconds <= 0.0:
            return
        runs, mean = self._slowness.get(worker, (0, 0.0))
        if not runs and len(self._slowness) >= MAXIMUM_KNOWN:
            del self._slowness[next(iter(self._slowness))]
        factor = min(max(math.log(seconds / predicted), -_MOST), _MOST)
        runs = min(runs + 1, _RUNS)
        self._slowness[worker] = (runs, mean + (factor - mean) / (runs + _PRIOR_RUNS))
        self._unsaved.add(worker)

    def note_install(self, environment: str | None, seconds: float) -> None:
        """A worker had to build an environment before a run."""
        if environment is None or seconds < INSTALL_SECONDS:
            return
        self._installs.pop(environment, None)
        if len(self._installs) >= MAXIMUM_KNOWN:
            del self._installs[next(iter(self._installs))]
        self._installs[environment] = seconds

    # ---- what is kept

    def restore(self, learned: Iterable[tuple[int, int, float]]) -> None:
        """Take back what was kept of workers; those that have run here meanwhile stay."""
        for worker, runs, mean in learned:
            self._slowness.setdefault(worker, (runs, mean))

    def unsaved(self) -> list[tuple[int, int, float]]:
        """Of the workers that have run since `saved`: what `restore` takes."""
        known = self._slowness
        return [(worker, *known[worker]) for worker in sorted(self._unsaved) if worker in known]

    def saved(self, learned: Iterable[tuple[int, int, float]]) -> None:
        """That is on disk."""
        for worker, *kept in learned:
            if self._slowness.get(worker) == tuple(kept):
                self._unsaved.discard(worker)

    # ---- what it says

    def slowness(self, worker: int) -> float:
        """How many times as long as others a worker takes for the same; 1.0 when not known."""
        _, mean = self._slowness.get(worker, (0, 0.0))
        return math.exp(mean)

    def rank(self, worker: int) -> int:
        """Less for a faster worker; equal for those that hardly differ."""
        _, mean = self._slowness.get(worker, (0, 0.0))
        return round(mean / _STEP)

    def install_seconds(self, environment: str | None) -> float:
        """How long the environment takes to build; 0: not known, or not worth speaking of."""
        return self._installs.get(environment or "", 0.0)

    def costly(self, environments: Iterable[str | None]) -> set[str]:
        """Those of the environments that are worth waiting for."""
        if not self._installs:
            return set()
        return {each for each in environments if each is not None and each in self._installs}

    def leaves_to_warm(
        self, environment: str, *, due_at: float, now: float, free_at: float | None
    ) -> bool:
        """Whether workers without the environment leave its tasks to those who have it.

        In all for no longer than to build it takes: who is likely to be free need not be.
        """
        seconds = self.install_seconds(environment)
        if not waits_for_warm(due_at=due_at, now=now, install_seconds=seconds, free_at=free_at):
            self._waiting.pop(environment, None)
            return False
        since = self._waiting.get(environment)
        if since is None or not since <= now < since + _AGAIN * seconds:
            since = self._waiting[environment] = now
        return now - since < seconds

    def awaited_build(self, environment: str | None, *, now: float) -> float | None:
        """Seconds that an environment takes to build whose tasks wait for who has it; else None."""
        since = self._waiting.get(environment or "")
        seconds = self.install_seconds(environment)
        return seconds if since is not None and since <= now < since + seconds else None


def waits_for_warm(
    *, due_at: float, now: float, install_seconds: float, free_at: float | None
) -> bool:
    """Whether tasks wait for a worker that has their environment, rather than go to one without.

    `due_at`: of the first of them; `free_at`: when the first such worker is likely to have room,
    None when there is none. It is to be free sooner than another could build.
    """
    return free_at is not None and now < due_at and free_at - now < install_seconds


def likely_end(*, started_at: float, predicted: float, now: float) -> float:
    """When a run is likely to end; one that has outlived its prediction takes as long again."""
    end = started_at + abs(predicted)
    return end if end > now else now + (now - started_at)
