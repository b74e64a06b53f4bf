"""What tasks require, and what a worker has of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.deal import Room, deal
from task_server.scheduling.lanes import Candidate, Lane
from task_server.scheduling.requires import NOTHING, Free, Requires, requires_of
from task_server.scheduling.shares import Shares
from tests.scheduling.candidates import candidate, lane, short

GIB = 2**30


def room(slots: int = 4, **options: Any) -> Room[Candidate]:
    has: dict[str, Any] = {"cpu": 4.0, "memory": 8 * GIB, "gpu": 2, "labels": {}}
    free = Free(slots=slots, **{**has, **options})
    return Room(want=100, slots=slots, pythons=frozenset({"3.11"}), sandbox=0, free=free)


def _nothing(_: Lane[Candidate]) -> None:
    raise AssertionError("each lane was complete")


def requiring(number: int, requires: Requires, count: int = 1, **options: Any) -> Lane[Candidate]:
    tasks = [candidate(100 * number + index, **options) for index in range(count)]
    return lane(number, *tasks, requires=requires, plain=False)


def dealt(
    rooms: list[Room[Candidate]], *lanes: Lane[Candidate], now: float = float("-inf")
) -> list[list[int]]:
    deal(rooms, lanes, shares=Shares({}), refill=_nothing, now=now)
    return [[each.number for each in room.dealt] for room in rooms]


@given(
    st.builds(
        Requires,
        cpu=st.floats(0, 64),
        memory=st.integers(0, 2**60),
        gpu=st.integers(0, 8),
        labels=st.dictionaries(st.text(), st.text(), max_size=3).map(
            lambda labels: tuple(sorted(labels.items()))
        ),
    )
)
def test_the_text_says_all_of_it(requires: Requires) -> None:
    read = requires_of(requires.text)

    assert (NOTHING if read is None else read) == requires


def test_nothing_required_is_the_empty_text() -> None:
    assert (NOTHING.text, requires_of("")) == ("", None)


@pytest.mark.parametrize(
    "requires",
    [
        Requires(cpu=4.5),
        Requires(memory=8 * GIB + 1),
        Requires(gpu=3),
        Requires(labels=(("rack", "b"),)),
    ],
)
def test_what_a_worker_does_not_have_is_not_for_it(requires: Requires) -> None:
    tasks = [requiring(1, requires), lane(2, candidate(7))]

    assert dealt([room(labels={"rack": "a"})], *tasks) == [[7]]


@pytest.mark.parametrize(
    "requires",
    [
        Requires(cpu=4.0),
        Requires(memory=8 * GIB),
        Requires(gpu=2),
        Requires(cpu=4.0, memory=8 * GIB, gpu=2, labels=(("rack", "a"),)),
    ],
)
def test_all_that_a_worker_has_is_given_once(requires: Requires) -> None:
    assert dealt([room(labels={"rack": "a"})], requiring(1, requires, count=2)) == [[100]]


def test_a_worker_that_does_not_say_what_it_has_gets_none_of_it() -> None:
    silent = room(cpu=None, memory=None, gpu=0)
    required = [Requires(cpu=0.1), Requires(memory=1), Requires(gpu=1)]

    lanes = [requiring(number, each) for number, each in enumerate(required)]
    assert dealt([silent], *lanes) == [[]]


def test_a_plain_worker_gets_nothing_that_requires_something() -> None:
    plain: Room[Candidate] = Room(
        want=1, slots=1, pythons=frozenset({"3.11"}), sandbox=4, is_plain=True
    )
    required = lane(1, candidate(1), requires=Requires(labels=(("a", "b"),)))

    assert dealt([plain], required) == [[]]


def test_a_task_without_cores_takes_its_slots_share_of_them() -> None:
    tasks = [requiring(1, Requires(cpu=2.0)), lane(2, *map(candidate, range(200, 209)))]

    (numbers,) = dealt([room(slots=8)], *tasks)

    assert numbers[:4] == [100, 200, 201, 202], "2 of 4 cores are 4 of 8 slots"
    assert len(numbers) == 5


def test_what_is_held_is_not_free() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0, requires=Requires(gpu=1, memory=7 * GIB))

    lanes = [
        requiring(1, Requires(gpu=2)),
        requiring(2, Requires(memory=2 * GIB)),
        requiring(3, Requires(gpu=1, memory=GIB)),
    ]
    assert dealt([worker], *lanes) == [[300]]


def test_what_does_not_fit_does_not_hold_up_the_owners_other_lanes() -> None:
    tasks = [requiring(1, Requires(gpu=2), count=2), requiring(2, Requires(cpu=1.0), count=2)]

    assert dealt([room()], *tasks) == [[100, 200, 201]]


def test_short_functions_that_take_something_have_a_slot_alone() -> None:
    tasks = requiring(1, Requires(memory=1), count=9, statistics=short())

    assert dealt([room()], tasks) == [[100, 101, 102, 103]]


def test_short_functions_that_only_choose_a_label_share_slots() -> None:
    tasks = requiring(1, Requires(labels=(("rack", "a"),)), count=9, statistics=short())

    (numbers,) = dealt([room(labels={"rack": "a"})], tasks)

    assert len(numbers) == 9


# ---- who needs much is not passed for ever


def test_what_is_due_and_does_not_fit_keeps_what_it_requires() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0)
    big, others = requiring(1, Requires(cpu=4.0)), lane(2, *map(candidate, range(200, 209)))

    assert dealt([worker], big, others, now=100.0) == [[]]


def test_before_it_is_due_others_go_first() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0)
    big, others = requiring(1, Requires(cpu=4.0)), lane(2, *map(candidate, range(200, 209)))

    assert dealt([worker], big, others, now=99.0) == [[200, 201, 202]]


def test_others_have_what_is_left_beside_it() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0, requires=Requires(gpu=1))
    big = requiring(1, Requires(gpu=2, memory=4 * GIB), due_at=1.0)
    lanes = [
        requiring(2, Requires(gpu=1)),
        requiring(3, Requires(memory=5 * GIB)),
        requiring(4, Requires(memory=4 * GIB)),
        lane(5, *map(candidate, range(500, 509))),
    ]

    assert dealt([worker], big, *lanes, now=999.0) == [[400, 500]]


def test_only_one_worker_is_kept_and_the_freest() -> None:
    rooms = [room(), room()]
    for worker, count in zip(rooms, (2, 1), strict=True):
        for _ in range(count):
            worker.hold(is_short=False, seconds=0.0)
    big, others = requiring(1, Requires(cpu=4.0)), lane(2, *map(candidate, range(200, 209)))

    assert dealt(rooms, big, others, now=100.0) == [[200, 201], []]


def test_nothing_is_kept_for_what_is_not_first() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0)
    big = requiring(1, Requires(cpu=4.0), due_at=1.0)
    first = lane(2, *map(candidate, range(200, 209)), priority=1)

    assert dealt([worker], big, first, now=999.0) == [[200, 201, 202]]


def test_nothing_is_kept_for_what_no_worker_can_ever_have() -> None:
    worker = room()
    worker.hold(is_short=False, seconds=0.0)
    never = requiring(1, Requires(cpu=5.0), due_at=1.0)
    others = lane(2, *map(candidate, range(200, 209)))

    assert dealt([worker], never, others, now=999.0) == [[200, 201, 202]]


@given(st.integers(1, 4), st.lists(st.integers(0, 3), min_size=20, max_size=20))
def test_what_needs_much_starts_however_many_small_ones_come(cores: int, ends: list[int]) -> None:
    big = requiring(1, Requires(cpu=float(cores)), due_at=10.0)
    small = lane(2, *map(candidate, range(200, 500)), owner=2)
    running, shares = list(map(candidate, range(4))), Shares({1: 5.0}, active={1, 2})

    for now, ended in enumerate(ends):
        del running[ended % len(running)]
        worker = room()
        for _ in running:
            worker.hold(is_short=False, seconds=0.0)
        deal([worker], [big, small], shares=shares, refill=_nothing, now=float(now))
        running += worker.dealt

    assert 100 in [each.number for each in running] or not big.window.entries


requirements = st.builds(
    Requires,
    cpu=st.sampled_from([0.0, 0.1, 0.5, 1.0, 1.5, 3.0]),
    memory=st.integers(0, 6).map(lambda size: size * GIB),
    gpu=st.integers(0, 2),
    labels=st.sampled_from([(), (("rack", "a"),), (("rack", "b"),)]),
)
lanes_strategy = st.lists(
    st.tuples(requirements, st.integers(1, 4), st.booleans()), min_size=1, max_size=6
)
worker_strategy = st.tuples(
    st.integers(1, 6), st.sampled_from([0.5, 1.0, 2.0, 3.0]), st.sampled_from(["a", "b"])
)


@given(lanes_strategy, st.lists(worker_strategy, min_size=1, max_size=3))
def test_nothing_is_promised_twice(
    shape: list[tuple[Requires, int, bool]], workers: list[tuple[int, float, str]]
) -> None:
    known = short()
    lanes = []
    for index, (requires, count, is_short) in enumerate(shape):
        options: dict[str, Any] = {"statistics": known} if is_short else {}
        required = None if requires == NOTHING else requires
        tasks = [candidate(100 * index + each, **options) for each in range(count)]
        lanes.append(lane(index, *tasks, requires=required))
    of = {each.number: made.requires for made in lanes for each in made.window.entries}
    rooms = [room(slots, cpu=cpu, labels={"rack": rack}) for slots, cpu, rack in workers]

    numbers = dealt(rooms, *lanes)

    for mine, (slots, cpu, rack) in zip(numbers, workers, strict=True):
        given = [each for number in mine if (each := of[number]) is not None]
        assert sum(each.memory for each in given) <= 8 * GIB
        assert sum(each.gpu for each in given) <= 2
        assert all(label == ("rack", rack) for each in given for label in each.labels)
        alone = [each for each in given if each.takes]
        cores = sum(max(each.cpu, cpu / slots) for each in alone)
        assert cores <= cpu * (1 + 1e-9) and len(alone) <= slots
    assert not _fits_still(rooms, lanes), "a worker could have had it"


def _fits_still(rooms: list[Room[Candidate]], lanes: list[Lane[Candidate]]) -> bool:
    return any(
        room.fits(lane) and not room.is_full(ahead=False)
        for room in rooms
        for lane in lanes
        if lane.window.entries
    )
