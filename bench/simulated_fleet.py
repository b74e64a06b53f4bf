"""A fleet in which only time is not real: order, lanes, shares and deal are the server's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count

from bench.simulated_prices import Prices
from bench.simulated_traces import Job
from task_server.scheduling.deal import Room, deal
from task_server.scheduling.lanes import Candidate, Lane, Window
from task_server.scheduling.order import InBatch, Place, batch_due_at, place
from task_server.scheduling.placement import Placement, likely_end
from task_server.scheduling.shares import Shares
from task_server.scheduling.statistics import Statistics

PYTHON = "3.11"
_UNKNOWN = Statistics(0, 0)  # never short: a slot has one task


class Waiting(Candidate):
    """A job in its lane."""

    job: Job
    batch: InBatch | None


class Machine:
    """One worker with one slot."""

    def __init__(self, name: int, speed: float = 1.0) -> None:
        self.name = name
        self.speed = speed
        self.job: Job | None = None
        self.environments: set[str] = set()
        """Those that it has built."""


class Fleet:
    """Machines, the queue before them, and the clock."""

    def __init__(
        self,
        machines: Sequence[Machine],
        *,
        by_prediction: bool = True,
        by_placement: bool = False,
        build_seconds: float = 0.0,
    ) -> None:
        self.machines = list(machines)
        self.builds = 0
        self._by_placement = by_placement
        self._build_seconds = build_seconds
        self._placement = Placement()
        self.now = 0.0
        self.shares = Shares({})
        self.on_end: Callable[[Job], None] = lambda job: None
        self._by_prediction = by_prediction
        self._lanes: dict[tuple[int, str], Lane[Waiting]] = {}
        self._numbers = count(1)
        self._ends: list[tuple[float, int, Machine]] = []
        self._work = 0.0
        self._work_at = 0.0

    # ---- the queue

    def submit(self, jobs: Sequence[Job], *, as_batch: bool = False) -> None:
        """They are ready now."""
        batch = None
        if as_batch:
            seconds = sum(abs(job.predicted) for job in jobs)
            slots = len(self.machines)
            batch = InBatch(batch_due_at(self.now, seconds=seconds, slots=slots))
        for job in jobs:
            self._queue(job, batch)

    def _queue(self, job: Job, batch: InBatch | None) -> None:
        self._note_work(job.seconds)
        job.work_ahead = self._work - job.seconds
        job.ready_at = self.now
        due_at, tie = self._place(job, batch)
        waiting = Waiting(
            number=next(self._numbers),
            due_at=due_at,
            tie=tie,
            crashes=0,
            predicted=job.predicted,
            size=0,
            statistics=_UNKNOWN,
            job=job,
            batch=batch,
        )
        self._lane(job).window.offer(waiting)

    def _place(self, job: Job, batch: InBatch | None) -> Place:
        return place(
            job.ready_at,
            predicted=job.predicted,
            predicted_high=job.predicted_high,
            batch=batch,
            by_prediction=self._by_prediction,
        )

    def refine(self, prices: Prices) -> None:
        """Price what waits once more, and put it where it then belongs."""
        for lane in self._lanes.values():
            waiting = lane.window.entries
            prices.price([each.job for each in waiting])
            for each in waiting:
                each.predicted = each.job.predicted
                each.due_at, each.tie = self._place(each.job, each.batch)
            waiting.sort(key=lambda each: each.key)

    def _lane(self, job: Job) -> Lane[Waiting]:
        key = (job.owner, job.environment)
        if key not in self._lanes:
            self._lanes[key] = Lane(
                len(self._lanes),
                owner=job.owner,
                priority=0,
                python=PYTHON,
                plain=False,
                sandbox=0,
                request=0,
                environment=job.environment,
                window=Window(is_complete=True),
            )
        return self._lanes[key]

    def _note_work(self, seconds: float) -> None:
        """How much is to be done, in seconds of a machine."""
        busy = sum(machine.job is not None for machine in self.machines)
        self._work -= busy * (self.now - self._work_at)
        self._work_at = self.now
        self._work += seconds

    # ---- the machines

    def deal(self) -> None:
        """Give the idle machines what is due."""
        lanes = [lane for lane in self._lanes.values() if lane.window.entries]
        idle = [machine for machine in self.machines if machine.job is None]
        if not lanes or not idle:
            return
        self._note_work(0.0)
        if self._by_placement:
            idle.sort(key=lambda machine: self._placement.rank(machine.name))
        rooms = [
            Room[Waiting](
                want=1,
                slots=1,
                pythons=frozenset({PYTHON}),
                sandbox=0,
                broken=self._left_to_warm(machine, lanes),
            )
            for machine in idle
        ]
        deal(rooms, lanes, shares=self.shares, refill=_nothing)
        for machine, room in zip(idle, rooms, strict=True):
            for waiting in room.dealt:
                self._start(machine, waiting.job)

    def _left_to_warm(self, machine: Machine, lanes: Sequence[Lane[Waiting]]) -> frozenset[str]:
        if not self._by_placement:
            return frozenset()
        costly = self._placement.costly(lane.environment for lane in lanes)
        return frozenset(
            environment
            for environment in costly - machine.environments
            if self._placement.leaves_to_warm(
                environment,
                due_at=min(
                    lane.window.entries[0].due_at
                    for lane in lanes
                    if lane.environment == environment
                ),
                now=self.now,
                free_at=self._free_at(environment),
            )
        )

    def _free_at(self, environment: str) -> float | None:
        moments = [
            self.now
            if each.job is None
            else likely_end(
                started_at=each.job.started_at, predicted=each.job.predicted, now=self.now
            )
            for each in self.machines
            if environment in each.environments
        ]
        return min(moments, default=None)

    def _start(self, machine: Machine, job: Job) -> None:
        machine.job = job
        job.started_at = self.now
        end = self.now + job.seconds / machine.speed
        if self._build_seconds and job.environment not in machine.environments:
            end += self._build_seconds
            self.builds += 1
        heappush(self._ends, (end, machine.name, machine))

    def next_end(self) -> float:
        """When the next job ends."""
        return self._ends[0][0] if self._ends else float("inf")

    def end_one(self) -> None:
        """Let time pass until then."""
        end, _, machine = heappop(self._ends)
        job = machine.job
        assert job is not None
        self._note_work(0.0)
        self.now = end
        self._note_work(0.0)
        machine.job = None
        job.ended_at = end
        self._note(machine, job)
        self.shares.settle(job.owner, predicted=abs(job.predicted), seconds=job.seconds)
        self.on_end(job)

    def _note(self, machine: Machine, job: Job) -> None:
        """What the machine's placement learns from it."""
        if job.environment not in machine.environments:
            machine.environments.add(job.environment)
            self._placement.note_install(job.environment, self._build_seconds)
        self._placement.note_run(
            machine.name, predicted=job.predicted, seconds=job.seconds / machine.speed
        )


def _nothing(lane: Lane[Waiting]) -> None:
    raise AssertionError("windows are complete")


REFINED_EVERY = 20
"""Jobs that end until what waits is priced once more, by who can tell more then."""


def run(
    jobs: Sequence[Job],
    prices: Prices | None,
    *,
    slots: int = 8,
    machines: Sequence[Machine] | None = None,
    by_placement: bool = False,
    build_seconds: float = 0.0,
) -> Fleet:
    """Let jobs come at their times until all are done; without prices first come, first served."""
    fleet = Fleet(
        machines or [Machine(name) for name in range(slots)],
        by_prediction=prices is not None,
        by_placement=by_placement,
        build_seconds=build_seconds,
    )
    if prices is not None:
        _learn(fleet, prices)
    coming = sorted(jobs, key=lambda job: job.ready_at)
    for job in coming:
        while fleet.next_end() <= job.ready_at:
            fleet.end_one()
            fleet.deal()
        fleet.now = job.ready_at
        if prices is not None:
            prices.price([job])
        fleet.submit([job])
        fleet.deal()
    while fleet.next_end() < float("inf"):
        fleet.end_one()
        fleet.deal()
    return fleet


def _learn(fleet: Fleet, prices: Prices) -> None:
    """Have what ends be learned from, and now and then what waits be priced once more."""
    ended = count(1)

    def end(job: Job) -> None:
        prices.learn(job)
        if prices.refines and next(ended) % REFINED_EVERY == 0:
            fleet.refine(prices)

    fleet.on_end = end


def makespan(jobs: Sequence[Job], prices: Prices | None, *, slots: int = 8) -> float:
    """Seconds until a batch is done."""
    fleet = Fleet([Machine(name) for name in range(slots)], by_prediction=prices is not None)
    if prices is not None:
        _learn(fleet, prices)
        prices.price(jobs)
    fleet.submit(jobs, as_batch=True)
    fleet.deal()
    while fleet.next_end() < float("inf"):
        fleet.end_one()
        fleet.deal()
    return fleet.now
