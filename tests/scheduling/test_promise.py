"""P7 over the real lanes and the real deal: who may be passed by whom, and for how long."""

from __future__ import annotations

import math

import hypothesis.strategies as st
from hypothesis import given
from msgspec import Struct

from task_server.scheduling.deal import Room, deal
from task_server.scheduling.lanes import Candidate, Lane
from task_server.scheduling.order import InBatch, batch_due_at, place
from task_server.scheduling.shares import Shares
from tests.scheduling.candidates import UNKNOWN, lane

SECONDS = st.sampled_from([0.001, 0.1, 1.0, 3.0, 60.0, 600.0, 1e5])


class Coming(Struct, frozen=True):
    """A task that comes, or several as a batch."""

    after: float
    """Seconds since the one before."""
    seconds: tuple[float, ...]
    lane: int
    finish_in: float | None
    is_batch: bool
    in_order: bool
    takers: int
    """Slots that become free then."""


COMING = st.builds(
    Coming,
    after=st.sampled_from([0.0, 0.01, 1.0, 30.0, 1000.0, 5000.0]),
    seconds=st.lists(SECONDS, min_size=1, max_size=4).map(tuple),
    lane=st.integers(0, 2),
    finish_in=st.none() | st.sampled_from([-5.0, 0.5, 20.0, 1e4]),
    is_batch=st.booleans(),
    in_order=st.booleans(),
    takers=st.integers(0, 3),
)


class Queue:
    """Lanes of one owner and priority, and in which order their tasks started."""

    def __init__(self) -> None:
        self.now = 1e9
        self.lanes = [lane(number) for number in range(3)]
        self.shares = Shares({})
        self.ready_at: dict[int, float] = {}
        self.patience: dict[int, float] = {}
        self.in_order: list[list[int]] = []
        self.started: list[int] = []

    def come(self, coming: Coming) -> None:
        """Let them come."""
        self.now += coming.after
        batch = None
        if coming.is_batch:
            due_at = batch_due_at(self.now, seconds=sum(coming.seconds), slots=2)
            batch = InBatch(due_at, coming.in_order)
        finish_by = None if coming.finish_in is None else self.now + coming.finish_in
        first = len(self.ready_at)
        for number, seconds in enumerate(coming.seconds, first):
            due_at, tie = place(
                self.now,
                predicted=seconds,
                predicted_high=2 * seconds,
                finish_by=finish_by,
                batch=batch,
            )
            self.ready_at[number] = self.now
            self.patience[number] = promised(sum(coming.seconds) / 2 if batch else seconds)
            self.lanes[(coming.lane + number) % 3].window.offer(
                Candidate(number, due_at, tie, 0, seconds, 0, UNKNOWN)
            )
        if batch and batch.in_order:
            self.in_order.append(list(range(first, len(self.ready_at))))

    def take(self, slots: int) -> None:
        """Let so many start."""
        room: Room[Candidate] = Room(
            want=slots, slots=slots, pythons=frozenset({"3.11"}), sandbox=0
        )
        deal([room], self.lanes, shares=self.shares, refill=_nothing)
        self.started += [each.number for each in room.dealt]


def promised(seconds: float) -> float:
    """For how long it may be passed, as the promise says."""
    return min(10 * 2.0 ** math.ceil(math.log2(seconds)), 3600.0)


def _nothing(lane: Lane[Candidate]) -> None:
    raise AssertionError("windows are complete")


@given(st.lists(COMING, max_size=12))
def test_nothing_is_passed_by_what_becomes_ready_later_than_its_patience(
    coming: list[Coming],
) -> None:
    queue = Queue()

    for each in coming:
        queue.come(each)
        queue.take(each.takers)
    queue.take(1000)

    assert sorted(queue.started) == list(queue.ready_at)
    for place_, passed in enumerate(queue.started):
        for other in queue.started[:place_]:
            assert queue.ready_at[other] - queue.ready_at[passed] <= queue.patience[passed] + 1e-6
    for members in queue.in_order:
        assert [each for each in queue.started if each in members] == members
