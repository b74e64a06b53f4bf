"""The verbs of the store about environments: requests, their locks, and uploaded wheels."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from task_server.store.records.packages import Package


class EnvironmentStore(Protocol):
    """One database of tasks, as those who lock environments see it."""

    # ---- requests and their locks

    async def locked(self, text: str, *, environment: str, python: str, lock: str) -> None:
        """An environment request has its lock: its tasks can be leased."""

    async def lock_failed(self, text: str, message: str) -> None:
        """T15: an environment request's lock failed for good."""

    async def ask_for_lock(self, text: str, *, python: str, environment: str | None) -> None:
        """Have an environment request, and its lock made; one that failed is tried again.

        `environment`: the digest of a lock that is there already.
        """

    async def environment(self, digest: str) -> tuple[str, str, float] | None:
        """Python, lock and moment of an environment."""

    async def open_requests(self, now: float) -> list[tuple[str, str, int]]:
        """Environment requests to lock now: text, Python, tries so far.

        One that failed before is among them only while tasks wait for it.
        """

    async def lock_later(self, text: str, *, at: float, reason: str, counts: bool) -> None:
        """An environment request could not be locked now for this reason: not before `at` again.

        `counts`: as one of its tries.
        """

    async def keep_empty_lock(self, python: str, *, now: float) -> None:
        """Store the lock of the empty environment of a Python."""

    # ---- refreshed locks

    async def refresh(
        self, request: str, *, environment: str, python: str, lock: str, now: float
    ) -> None:
        """From now on tasks of this request (its text) get that lock."""

    async def refreshed(self) -> dict[str, str]:
        """Text of a request -> digest of the lock that was made anew for it."""

    async def refresh_mark(self) -> tuple[int, float]:
        """Changes whenever a lock is refreshed."""

    # ---- uploaded wheels

    async def add_package(self, package: Package, *, began: float) -> bool:
        """Note a wheel whose content was stored since `began`; False when it was there already.

        Raises Conflict for other content under the same file name, Unavailable when the content
        may have been deleted again.
        """

    async def packages(self, *, owner: int | None, name: str | None = None) -> list[Package]:
        """Wheels of an owner (None: of all), of one name (None: of all), oldest first."""

    async def packages_with(self, digests: Collection[str]) -> list[Package]:
        """Wheels that have one of these contents, whoever uploaded them."""

    async def remove_package(self, *, owner: int, name: str, version: str | None) -> int:
        """Forget the wheels of a name, or of one version of it; how many."""

    async def package_contents(self) -> list[tuple[int, str, str, str]]:
        """Owner, name, file name and digest of every wheel, oldest first."""

    async def package_mark(self) -> tuple[int, int]:
        """Changes whenever a wheel comes or goes."""
