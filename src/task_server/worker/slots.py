"""Slots: which runner gets which call, and which runners stay warm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from task_server.worker.attempts import Attempt, RunnerKey
from task_server.worker.calls import Call, Outcome
from task_server.worker.devices import Devices
from task_server.worker.environments import Environment
from task_server.worker.runners import Runner
from task_server.worker.sandbox.sandbox import Sandbox
from task_server.worker.starting import Starter

log = logging.getLogger(__name__)

STUCK_SECONDS = 0.25
"""A call that takes this long does not let others wait behind it."""
START_TRIES = 3
"""How often in a row a runner may fail to start before its tasks are given back."""
SPARE_RUNNERS = 4
"""Warm runners kept beside those in slots."""

OnOutcomes = Callable[[list[tuple[Attempt, Outcome]]], None]


class Slot:
    """One slot: a runner, or none yet."""

    __slots__ = ("key", "runner")

    def __init__(self) -> None:
        self.runner: Runner | None = None
        self.key: RunnerKey | None = None

    @property
    def pending(self) -> int:
        """Calls on it."""
        return self.runner.pending if self.runner is not None else 0

    def is_stuck(self, now: float) -> bool:
        """Whether its call runs for long."""
        runner = self.runner
        if runner is None or not runner.pending:
            return False
        started = runner.started
        return started is not None and now - started.since > STUCK_SECONDS


class Slots:
    """All slots of a worker. `on_outcomes` gets what calls came to, in batches.

    `on_unfit` gets those for which no runner can be started.
    """

    def __init__(
        self,
        count: int,
        directory: Path,
        on_outcomes: OnOutcomes,
        on_unfit: Callable[[list[Attempt]], None],
    ) -> None:
        self._slots = [Slot() for _ in range(count)]
        self._spare: list[tuple[RunnerKey, Runner]] = []
        """Warm runners that no slot has, longest unused first."""
        self.starter = Starter(directory)
        """Starts them; one that is started from outside belongs to no slot."""
        self._on_outcomes = on_outcomes
        self._on_unfit = on_unfit
        self._attempts: dict[str, tuple[Attempt, Environment]] = {}
        self._waiting: list[Attempt] = []
        """Ready to run, and no slot is free for them."""
        self._closing: set[asyncio.Task[None]] = set()
        self._failed_starts: dict[str, int] = {}
        self._devices = Devices()
        self._devices_of: dict[Runner, tuple[str, ...]] = {}
        """GPUs of each runner that has some, until it is gone."""

    def use(self, sandbox: Sandbox | None, devices: Devices) -> None:
        """Confine every runner by it, and give them these GPUs."""
        self.starter.use(sandbox, devices)
        self._devices = devices

    def open(self) -> None:
        """Remove what an earlier start left, and prepare what runners share."""
        self.starter.open()

    # ---- placing calls

    def run(self, attempts: Iterable[tuple[Attempt, Environment]]) -> None:
        """Run these, each on a free slot, or behind short calls of its owner and environment."""
        placed: dict[int, tuple[Slot, list[Call]]] = {}
        counts = {id(slot): slot.pending for slot in self._slots}
        stuck = self._stuck()
        unfit: list[Attempt] = []
        for attempt, environment in attempts:
            try:
                slot = self._place(attempt, environment, counts, stuck)
            except OSError as error:
                log.error("cannot start a runner: %s", error)
                self._attempts.pop(attempt.lease, None)
                unfit.append(attempt)
                continue
            self._attempts[attempt.lease] = (attempt, environment)
            if slot is None:
                self._waiting.append(attempt)
                continue
            assert attempt.call is not None
            counts[id(slot)] += 1
            placed.setdefault(id(slot), (slot, []))[1].append(attempt.call)
        for slot, calls in placed.values():
            assert slot.runner is not None
            slot.runner.send(calls)
        if unfit:
            self._on_unfit(unfit)

    def _place(
        self,
        attempt: Attempt,
        environment: Environment,
        counts: dict[int, int],
        stuck: Collection[Slot],
    ) -> Slot | None:
        key = self.starter.told_apart(attempt.runner_key)
        free = [slot for slot in self._slots if not counts[id(slot)]]
        for slot in free:
            if slot.key == key and slot.runner is not None and slot.runner.is_open:
                return slot
        working = {slot.runner for slot in self._slots if slot not in free}
        if free and not self._has_devices(key, working):
            return None
        if free:
            if key.limits is not None and (key.limits.memory or key.limits.reserved):
                self._make_room(key, working)
            slot = next((each for each in free if each.runner is None), free[0])
            self._refit(slot, key, environment)
            return slot
        same = [
            slot
            for slot in self._slots
            if slot.key == key
            and slot.runner is not None
            and slot.runner.is_open
            and slot not in stuck
        ]
        return min(same, key=lambda slot: counts[id(slot)]) if same else None

    def _refit(self, slot: Slot, key: RunnerKey, environment: Environment) -> None:
        """Give a free slot a runner for `key`; its warm one is kept beside if there is room."""
        old, old_key = slot.runner, slot.key
        slot.runner = self._take_spare(key) or self._start(environment, key)
        slot.key = key
        if old is not None and old_key is not None and old.is_open:
            self._spare.append((old_key, old))
            if len(self._spare) > SPARE_RUNNERS:
                self._close(self._spare.pop(0)[1])

    def _take_spare(self, key: RunnerKey) -> Runner | None:
        for index, (spare_key, runner) in enumerate(self._spare):
            if spare_key == key and runner.is_open:
                del self._spare[index]
                return runner
        return None

    def _start(self, environment: Environment, key: RunnerKey) -> Runner:
        devices = self._devices.take(gpus_of(key))
        try:
            runner = self.starter.start(
                environment,
                limits=key.limits,
                devices=devices,
                on_outcomes=self._take,
                on_exit=self._forget,
            )
        except OSError:
            self._devices.give_back(devices)
            raise
        if devices:
            self._devices_of[runner] = devices
        return runner

    def _has_devices(self, key: RunnerKey, working: set[Runner | None]) -> bool:
        """Whether a runner with the GPUs of `key` can be had now; else idle ones make room.

        Raises OSError when there never are so many.
        """
        if gpus_of(key) > self._devices.count:
            raise OSError(f"{gpus_of(key)} GPUs are asked for, and there are {self._devices.count}")
        missing = gpus_of(key) - self._devices.free
        if missing <= 0 or any(found == key and each.is_open for found, each in self._spare):
            return True
        idle = self._idle(working)
        leaving = self._devices_of.keys() - idle - working
        missing -= sum(len(self._devices_of[runner]) for runner in leaving)
        for runner, devices in self._devices_of.items():
            if missing > 0 and runner in idle:
                self._part_with(runner)
                missing -= len(devices)
        return False

    def _make_room(self, key: RunnerKey, working: set[Runner | None]) -> None:
        """A task has the memory that it requires: what idle runners keep warm is not to take it."""
        if not any(found == key and each.is_open for found, each in self._spare):
            for runner in self._idle(working):
                self._part_with(runner)

    def _idle(self, working: set[Runner | None]) -> set[Runner]:
        """Warm runners without a call."""
        found = [slot.runner for slot in self._slots] + [runner for _, runner in self._spare]
        return {runner for runner in found if runner is not None and runner not in working}

    def _part_with(self, runner: Runner) -> None:
        """Close an idle runner."""
        for slot in self._slots:
            if slot.runner is runner:
                slot.runner, slot.key = None, None
        self._spare = [each for each in self._spare if each[1] is not runner]
        self._close(runner)

    def let_go(self, environment: str) -> bool:
        """Close the idle runners of an environment; False if a call is in it, or waits for it."""
        if any(found.digest == environment for _, found in self._attempts.values()):
            return False
        for slot in self._slots:
            key = slot.key
            if slot.runner is not None and key is not None and key.environment == environment:
                self._close(slot.runner)
                slot.runner, slot.key = None, None
        for found, runner in self._spare:
            if found.environment == environment:
                self._close(runner)
        self._spare = [each for each in self._spare if each[0].environment != environment]
        return True

    @property
    def behind(self) -> int:
        """How many calls wait behind others on their slots: short ones, prefetched."""
        count = 0
        for slot in self._slots:
            pending = slot.pending
            if pending > 1:
                count += pending - 1
        return count

    # ---- what comes back

    def _take(self, runner: Runner, outcomes: list[Outcome]) -> None:
        ended: list[tuple[Attempt, Outcome]] = []
        again: list[tuple[Attempt, Environment]] = []
        for outcome in outcomes:
            found = self._attempts.pop(outcome.lease, None)
            if found is None:
                continue
            if outcome.outcome == "released":
                again.append(found)  # its runner ended before it started: another one takes it
            else:
                ended.append((found[0], outcome))
        self._retire(runner)
        if again and not runner.is_ready:
            again = self._still_hopeful(again)
        if ended:
            if self._failed_starts:
                self._failed_starts.pop(ended[0][0].assignment.environment, None)
            self._on_outcomes(ended)
        if again or self._waiting:
            self.run([*again, *self._take_waiting()])

    def _still_hopeful(
        self, attempts: list[tuple[Attempt, Environment]]
    ) -> list[tuple[Attempt, Environment]]:
        """Those to try again after a runner that never took calls; the others are given back."""
        digest = attempts[0][1].digest
        self._failed_starts[digest] = self._failed_starts.get(digest, 0) + 1
        if self._failed_starts[digest] < START_TRIES:
            return attempts
        log.error("no runner starts in environment %s", digest)
        del self._failed_starts[digest]
        self._on_unfit([attempt for attempt, _ in attempts])
        return []

    def _retire(self, runner: Runner) -> None:
        """Let a runner go that was for one task, once that is done."""
        for slot in self._slots:
            if slot.runner is runner and slot.key is not None and slot.key.fresh:
                slot.runner, slot.key = None, None
                self._close(runner)

    def _take_waiting(self) -> list[tuple[Attempt, Environment]]:
        if not self._waiting:
            return []
        free = sum(not slot.pending for slot in self._slots)
        taken, self._waiting = self._waiting[:free], self._waiting[free:]
        return [self._attempts[attempt.lease] for attempt in taken]

    def note_running(self) -> None:
        """Mark the attempts that run now; it costs a system call a slot."""
        for slot in self._slots:
            started = slot.runner.started if slot.runner is not None else None
            found = self._attempts.get(started.lease) if started is not None else None
            if found is not None:
                found[0].phase = "running"

    def _forget(self, runner: Runner) -> None:
        """A runner is gone with all that it started."""
        for slot in self._slots:
            if slot.runner is runner:
                slot.runner, slot.key = None, None
        self._spare = [each for each in self._spare if each[1] is not runner]
        self._devices.give_back(self._devices_of.pop(runner, ()))
        self.run(self._take_waiting())

    # ---- looking after them

    def free_up(self) -> list[Attempt]:
        """Take calls away from behind one that runs for long; gives those no slot is free for."""
        taken: list[str] = []
        for slot in self._stuck():
            if slot.pending > 1 and slot.runner is not None:
                taken += slot.runner.take_back(slot.pending)
        moved = [self._attempts[lease] for lease in taken if lease in self._attempts]
        before = len(self._waiting)
        self.run(moved)
        left, self._waiting = self._waiting[before:], self._waiting[:before]
        for attempt in left:
            self._attempts.pop(attempt.lease, None)
        return left

    def stuck(self) -> int:
        """How many slots are in a call that runs for long."""
        return len(self._stuck())

    def _stuck(self) -> list[Slot]:
        """Those slots; it costs a system call for each that works."""
        now = asyncio.get_running_loop().time()
        return [slot for slot in self._slots if slot.is_stuck(now)]

    def cancel(self, lease: str) -> None:
        """End a call without an outcome."""
        found = self._attempts.pop(lease, None)
        if found is None:
            return
        self._waiting = [attempt for attempt in self._waiting if attempt.lease != lease]
        for slot in self._slots:
            if slot.runner is not None:
                slot.runner.cancel(lease)

    def take_unstarted(self, wanted: Collection[str] | None = None) -> list[Attempt]:
        """Take back what has not started: all of it, or those of `wanted`."""
        leases = [each.lease for each in self._waiting if wanted is None or each.lease in wanted]
        self._waiting = [each for each in self._waiting if each.lease not in leases]
        for slot in self._slots:
            if slot.runner is not None:
                leases += slot.runner.take_back(slot.pending if wanted is None else wanted)
        found = [self._attempts.pop(lease, None) for lease in leases]
        return [each[0] for each in found if each is not None]

    def forget_running(self) -> None:
        """What is left, calls that run, is of no interest any more; `close` ends them."""
        self._attempts = {}

    def _close(self, runner: Runner) -> None:
        task = asyncio.ensure_future(runner.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all runners."""
        self._attempts, self._waiting = {}, []  # what they release now goes to no other
        runners = [slot.runner for slot in self._slots if slot.runner is not None]
        runners += [runner for _, runner in self._spare]
        await asyncio.gather(
            *(runner.close(grace_seconds=0.1) for runner in runners),
            *self._closing,
            return_exceptions=True,
        )
        self.starter.close()


def gpus_of(key: RunnerKey) -> int:
    """How many devices a runner of that kind has for itself."""
    return (key.limits.gpus or 0) if key.limits is not None else 0
