"""Which worker comes first, and when tasks wait for one that has their environment."""

from __future__ import annotations

import pytest

from task_server.scheduling.placement import Placement, likely_end, waits_for_warm


def learned(*runs: tuple[int, float], predicted: float = 10.0) -> Placement:
    """What is known after runs: worker and seconds, often enough to be sure."""
    placement = Placement()
    for worker, seconds in runs:
        for _ in range(20):
            placement.note_run(worker, predicted=predicted, seconds=seconds)
    return placement


def test_a_worker_that_takes_longer_than_predicted_comes_later() -> None:
    placement = learned((1, 20.0), (2, 10.0), (3, 5.0))

    assert sorted([1, 2, 3, 4], key=placement.rank) == [3, 2, 4, 1]
    assert 1.6 < placement.slowness(1) < 2.0 and placement.slowness(4) == 1.0


def test_workers_that_hardly_differ_are_alike() -> None:
    placement = learned((1, 10.5), (2, 9.6))

    assert placement.rank(1) == placement.rank(2)


@pytest.mark.parametrize("predicted", [-10.0, 0.001])
def test_guesses_and_short_runs_say_nothing_of_a_worker(predicted: float) -> None:
    placement = learned((1, 100.0), predicted=predicted)

    assert placement.slowness(1) == 1.0


def test_one_odd_run_is_not_a_slow_worker() -> None:
    placement = Placement()
    placement.note_run(1, predicted=1.0, seconds=1e6)

    assert placement.slowness(1) < 2.5


@pytest.mark.parametrize(
    ("free_at", "due_at", "waits"),
    [
        (100.0, 1000.0, True),
        (109.0, 1000.0, True),
        (111.0, 1000.0, False),
        (None, 1000.0, False),
        (100.0, 100.0, False),
    ],
)
def test_tasks_wait_for_who_is_free_sooner_than_another_can_build_and_while_they_may(
    free_at: float | None, due_at: float, waits: bool
) -> None:
    found = waits_for_warm(due_at=due_at, now=100.0, install_seconds=10.0, free_at=free_at)

    assert found is waits


def test_in_all_they_wait_no_longer_than_a_build_takes() -> None:
    placement = Placement()
    placement.note_install("e", 10.0)

    waits = [
        placement.leaves_to_warm("e", due_at=1e9, now=now, free_at=now)
        for now in (0.0, 9.0, 11.0, 90.0, 101.0)
    ]

    assert waits == [True, True, False, False, True]


def test_environments_that_are_built_at_once_are_not_waited_for() -> None:
    placement = Placement()
    placement.note_install("quick", 0.2)
    placement.note_install("slow", 5.0)

    assert placement.costly(["quick", "slow", "other", None]) == {"slow"}


def test_a_run_that_has_outlived_its_prediction_takes_as_long_again() -> None:
    assert likely_end(started_at=0.0, predicted=-10.0, now=4.0) == 10.0
    assert likely_end(started_at=0.0, predicted=10.0, now=15.0) == 30.0
