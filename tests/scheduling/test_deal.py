"""Who gets what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.deal import (
    PREFETCH_SECONDS,
    PREFETCH_TASKS,
    REPLY_BYTES,
    Room,
    deal,
)
from task_server.scheduling.lanes import Candidate, Lane
from task_server.scheduling.shares import Shares
from tests.scheduling.candidates import candidate, lane, short


def room(want: int = 100, slots: int = 100, **options: Any) -> Room[Candidate]:
    fields: dict[str, Any] = {"pythons": frozenset({"3.11"}), "sandbox": 0}
    return Room(want=want, slots=slots, **{**fields, **options})


def nothing(lane: Lane[Candidate]) -> None:
    raise AssertionError(f"lane {lane.number} was complete")


def dealt(
    rooms: list[Room[Candidate]],
    lanes: list[Lane[Candidate]],
    *,
    shares: Shares | None = None,
    refill: Callable[[Lane[Candidate]], None] = nothing,
) -> list[list[int]]:
    deal(rooms, lanes, shares=shares or Shares({}), refill=refill)
    return [[each.number for each in room.dealt] for room in rooms]


def many(first: int, count: int, **options: Any) -> list[Candidate]:
    return [candidate(number, **options) for number in range(first, first + count)]


def test_lanes_of_one_priority_are_merged_by_key() -> None:
    lanes = [lane(1, candidate(1), candidate(4)), lane(2, candidate(2), candidate(3))]

    assert dealt([room()], lanes) == [[1, 2, 3, 4]]


def test_a_higher_priority_goes_first() -> None:
    lanes = [lane(1, candidate(1)), lane(2, candidate(2), priority=1)]

    assert dealt([room()], lanes) == [[2, 1]]


def test_owners_take_turns() -> None:
    lanes = [lane(1, *many(1, 10)), lane(2, *many(11, 10), owner=2, priority=9)]

    assert dealt([room(want=4)], lanes) == [[1, 11, 2, 12]]


def test_the_owner_charged_the_least_goes_first() -> None:
    lanes = [lane(1, *many(1, 10)), lane(2, *many(11, 10), owner=2)]
    shares = Shares({1: 3.0}, active={1, 2})

    assert dealt([room(want=4)], lanes, shares=shares) == [[11, 12, 13, 1]]
    assert shares.charged == {1: 4.0, 2: 3.0}


def test_a_guess_is_charged_as_its_seconds() -> None:
    shares = Shares({})

    dealt([room()], [lane(1, candidate(1, predicted=-2.5))], shares=shares)

    assert shares.charged == {1: 2.5}


@pytest.mark.parametrize(
    "options,fits",
    [
        ({}, True),
        ({"environment": None}, False),
        ({"environment": "broken"}, False),
        ({"python": "3.9"}, False),
        ({"sandbox": 2}, False),
    ],
)
def test_only_lanes_that_fit(options: dict[str, Any], fits: bool) -> None:
    worker = room(broken=frozenset({"broken"}))

    assert dealt([worker], [lane(1, candidate(1), **options)]) == [[1] if fits else []]


@pytest.mark.parametrize("plain,expected", [(True, [[1]]), (False, [[]])])
def test_a_plain_worker_gets_what_is_plain(plain: bool, expected: list[list[int]]) -> None:
    worker = room(want=1, slots=1, is_plain=True, pythons=frozenset())

    assert dealt([worker], [lane(1, candidate(1), plain=plain)]) == expected


def test_each_free_slot_gets_one_before_any_gets_more() -> None:
    known = short()
    rooms = [room(slots=1), room(slots=1)]

    first, second = dealt(rooms, [lane(1, *many(1, 6, statistics=known))])

    assert first[0] == 1 and second[0] == 2
    assert sorted(first + second) == [1, 2, 3, 4, 5, 6]


def test_long_and_unknown_functions_wait_for_a_slot() -> None:
    assert dealt([room(slots=2)], [lane(1, *many(1, 6))]) == [[1, 2]]


def test_nothing_is_put_behind_a_long_one() -> None:
    lanes = [lane(1, candidate(1)), lane(2, *many(2, 5, statistics=short()))]

    assert dealt([room(slots=1)], lanes) == [[1]]


def test_what_is_held_takes_its_slot() -> None:
    worker = room(slots=3)
    worker.hold(is_short=False, seconds=0.0)
    worker.hold(is_short=True, seconds=0.001)

    assert dealt([worker], [lane(1, *many(1, 6))]) == [[1]]


def test_no_more_seconds_ahead_than_allowed() -> None:
    known = short(0.004)
    worker = room(slots=2)

    (numbers,) = dealt([worker], [lane(1, *many(1, 100, statistics=known))])

    seconds = len(numbers) * known.price().p90
    assert PREFETCH_SECONDS < seconds <= 2 * PREFETCH_SECONDS


def test_no_more_tasks_ahead_than_allowed() -> None:
    tasks = many(1, PREFETCH_TASKS + 50, statistics=short())

    (numbers,) = dealt([room(want=10_000, slots=1)], [lane(1, *tasks)])

    assert len(numbers) == PREFETCH_TASKS


def test_what_crashed_is_dealt_alone() -> None:
    known = short()
    tasks = [candidate(1, statistics=known, crashes=1), *many(2, 5, statistics=known)]

    assert dealt([room(slots=1)], [lane(1, *tasks)]) == [[1]]


def test_what_crashed_is_not_dealt_ahead() -> None:
    known = short()
    tasks = [candidate(1, statistics=known), candidate(2, statistics=known, crashes=1)]

    assert dealt([room(slots=1)], [lane(1, *tasks, candidate(3, statistics=known))]) == [[1]]


def test_one_owners_long_task_does_not_keep_short_ones_of_another_from_going_ahead() -> None:
    known = short()
    lanes = [lane(1, *many(1, 3)), lane(2, *many(10, 5, statistics=known), owner=2)]

    (numbers,) = dealt([room(slots=2)], lanes)

    assert numbers == [1, 10, 11, 12, 13, 14]


def test_a_reply_has_its_bytes() -> None:
    tasks = many(1, 3, size=REPLY_BYTES // 2 + 1)

    assert dealt([room()], [lane(1, *tasks)]) == [[1]]


def test_one_task_larger_than_a_reply_goes_alone() -> None:
    tasks = many(1, 2, size=REPLY_BYTES + 1)

    assert dealt([room()], [lane(1, *tasks)]) == [[1]]


def test_a_window_is_refilled_when_it_runs_empty() -> None:
    rest = many(3, 4)
    source = lane(1, candidate(1), candidate(2))
    source.window.is_complete = False

    def refill(lane: Lane[Candidate]) -> None:
        piece, rest[:] = rest[:2], rest[2:]
        lane.window.refill(piece, wanted=2)

    assert dealt([room()], [source], refill=refill) == [[1, 2, 3, 4, 5, 6]]
    assert source.window.is_complete


lanes_strategy = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(-1, 1),
        st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 1)), max_size=6),
    ),
    max_size=5,
)


@given(
    lanes_strategy,
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), min_size=1, max_size=4),
)
def test_everything_is_dealt_once_in_the_order_of_each_owner(
    shape: list[tuple[int, int, list[tuple[int, bool, int]]]], workers: list[tuple[int, int]]
) -> None:
    known, lanes, number = short(), [], 0
    keys: dict[int, tuple[Any, ...]] = {}
    for index, (owner, priority, tasks) in enumerate(shape):
        made = lane(index, owner=owner, priority=priority)
        for due_at, is_short, crashes in tasks:
            number += 1
            options: dict[str, Any] = {"statistics": known} if is_short else {}
            each = candidate(number, due_at=float(due_at), crashes=crashes, **options)
            made.window.offer(each)
            keys[number] = (owner, -priority, *each.key)
        lanes.append(made)
    rooms = [room(want=want, slots=slots) for want, slots in workers]

    numbers = dealt(rooms, lanes)

    given_out = [each for mine in numbers for each in mine]
    left = [each.number for made in lanes for each in made.window.entries]
    assert sorted(given_out + left) == sorted(keys)
    for owner in {key[0] for key in keys.values()}:
        mine = [keys[each] for each in given_out if keys[each][0] == owner]
        rest = [keys[each] for each in left if keys[each][0] == owner]
        assert not mine or not rest or max(mine) < min(rest), "a task was passed"
    for worker, (want, slots) in zip(rooms, workers, strict=True):
        assert len(worker.dealt) <= want
        assert sum(not task.statistics.is_short for task in worker.dealt) <= slots


class OneByOne(Room[Candidate]):
    """A worker that is dealt each task on its own."""

    def like_the_first(self, lane: Lane[Candidate]) -> int:
        return 1


task_strategy = st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 1), st.integers(1, 3))


@given(
    st.lists(task_strategy, max_size=40),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), min_size=1, max_size=3),
    st.sampled_from([0.000_01, 0.004, 0.02]),
)
def test_like_tasks_are_dealt_at_once_as_they_would_be_one_by_one(
    tasks: list[tuple[int, bool, int, int]], workers: list[tuple[int, int]], seconds: float
) -> None:
    known, other = short(seconds), short(seconds / 2)
    numbers = []

    for kind in (Room, OneByOne):
        made = lane(1)
        for number, (due_at, is_known, crashes, mebibytes) in enumerate(tasks, 1):
            options = {"due_at": float(due_at), "crashes": crashes, "size": mebibytes * 2**20}
            statistics = known if is_known else other
            made.window.offer(candidate(number, statistics=statistics, **options))
        rooms: list[Room[Candidate]] = [
            kind(want=want, slots=slots, pythons=frozenset({"3.11"}), sandbox=4)
            for want, slots in workers
        ]
        numbers.append(dealt(rooms, [made]))

    assert numbers[0] == numbers[1]
