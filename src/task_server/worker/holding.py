"""What a worker holds: tasks from their lease until they are reported."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Set

from task_server.protocol.workers import Assignment, Held, Report
from task_server.worker.attempts import Attempt, released
from task_server.worker.environments import Environment
from task_server.worker.preparation import Preparation
from task_server.worker.slots import Slots
from task_server.worker.spool import Spool

AT_ONCE = 128
"""Tasks given to slots in one turn of the event loop: a millisecond or two."""


class Holding:
    """Gives tasks to slots, once what they need is here."""

    def __init__(
        self,
        preparation: Preparation,
        slots: Slots,
        spool: Spool,
        *,
        report: Callable[[Sequence[Report]], None],
        on_prepared: Callable[[], None],
    ) -> None:
        """`report` ends what is held, by `forget` for one."""
        self._preparation = preparation
        self._slots = slots
        self._spool = spool
        self._report = report
        self._on_prepared = on_prepared
        self.attempts: dict[str, Attempt] = {}
        """By lease: all that is not reported."""
        self.arrived: deque[Attempt] = deque()
        """Of these, what no slot has been asked for."""
        self._preparing: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def listed(self) -> list[Held]:
        """All that the server has not settled: its report may be under way, or come later."""
        self._slots.note_running()
        held = [attempt.held() for attempt in self.attempts.values()]
        return held + [Held(lease, "running") for lease in self._spool.pending]

    def accept(self, assignments: Sequence[Assignment]) -> None:
        """Take tasks that the server gave."""
        self._note(assignments[:AT_ONCE])
        self._place_in_turns()
        if len(assignments) > AT_ONCE:
            self._note(assignments[AT_ONCE:])
            asyncio.get_running_loop().call_soon(self._place_in_turns)

    def forget(self, lease: str) -> None:
        """It is reported, or left to the next start."""
        self.attempts.pop(lease, None)

    def stop(self, lease: str) -> None:
        """End a task, wherever it is: nobody wants its answer."""
        if self.attempts.pop(lease, None) is not None:
            preparing = self._preparing.pop(lease, None)
            if preparing is not None:
                preparing.cancel()
            self._slots.cancel(lease)

    def give_back(self, leases: Sequence[str]) -> None:
        """Report as released what of these has not started."""
        while self.arrived:
            self._place(AT_ONCE)
        wanted = set(leases)
        unstarted = self._slots.take_unstarted(wanted) + self._stop_preparing(wanted)
        self._report([released(attempt) for attempt in unstarted])

    def refuse(self) -> None:
        """Report as released all that has not started, and what comes from now on."""
        self._is_closed = True
        unstarted = self._slots.take_unstarted() + self._stop_preparing(set(self._preparing))
        self._report([released(attempt) for attempt in unstarted])

    def close(self) -> None:
        """Prepare nothing more."""
        self.arrived.clear()
        for task in self._preparing.values():
            task.cancel()

    def _stop_preparing(self, leases: Set[str]) -> list[Attempt]:
        """Those of them that are being prepared: they are not, any more."""
        found = leases & self._preparing.keys()
        for lease in found:
            self._preparing.pop(lease).cancel()
        return [self.attempts[lease] for lease in found]

    def _note(self, assignments: Sequence[Assignment]) -> None:
        """Hold them from now on."""
        for assignment in assignments:
            lease = assignment.lease
            if lease not in self.attempts and lease not in self._spool.pending:
                attempt = self.attempts[lease] = Attempt(assignment)
                self.arrived.append(attempt)
            # else the same tasks again: a reply was thought lost

    def _place_in_turns(self) -> None:
        """Some now, the others later: the first answers are reported meanwhile."""
        self._place(AT_ONCE)
        if self.arrived:
            asyncio.get_running_loop().call_soon(self._place_in_turns)

    def _place(self, count: int) -> None:
        """Give so many of those that came to their slots."""
        runnable: list[tuple[Attempt, Environment]] = []
        for _ in range(min(count, len(self.arrived))):
            attempt = self.arrived.popleft()
            if attempt.lease not in self.attempts:
                continue  # stopped, or given back
            environment = self._preparation.at_once(attempt)
            if self._is_closed:
                self._report([released(attempt)])
            elif environment is not None:
                runnable.append((attempt, environment))
            else:
                self._preparing[attempt.lease] = asyncio.ensure_future(self._prepare(attempt))
        self._slots.run(runnable)

    async def _prepare(self, attempt: Attempt) -> None:
        try:
            prepared = await self._preparation.prepare(attempt)
            if isinstance(prepared, Report):
                self._report([prepared])
            else:
                self._slots.run([(attempt, prepared)])
        finally:
            self._preparing.pop(attempt.lease, None)
            self._on_prepared()
