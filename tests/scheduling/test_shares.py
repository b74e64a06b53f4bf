"""Fair share between owners."""

from hypothesis import given
from hypothesis import strategies as st

from task_server.scheduling.shares import Shares, weights_of


def test_work_is_charged_and_settled() -> None:
    shares = Shares({})
    shares.begin([1])

    assert shares.charge(1, 10.0) == 10.0
    shares.settle(1, predicted=10.0, seconds=3.0)

    assert shares.charged == {1: 3.0}


def test_a_share_never_falls_below_nothing() -> None:
    shares = Shares({1: 1.0})

    shares.settle(1, predicted=5.0, seconds=0.0)

    assert shares.charged[1] == 0.0


def test_who_comes_back_is_lifted_to_the_least_of_the_others() -> None:
    shares = Shares({})
    shares.begin([1, 2])
    shares.charge(1, 50.0)
    shares.charge(2, 70.0)

    shares.begin([1, 2, 3])

    assert shares.charged[3] == 50.0


def test_what_is_only_predicted_lifts_nobody() -> None:
    shares = Shares({})
    shares.begin([1])
    shares.charge(1, 50.0)
    assert shares.would_lift([1, 2])

    shares.begin([1, 2], {1: 40.0})

    assert shares.charged == {1: 50.0, 2: 10.0}
    assert not shares.would_lift([1, 2])


def test_who_has_more_already_is_not_lifted() -> None:
    shares = Shares({3: 90.0})
    shares.begin([1])

    shares.begin([1, 3])

    assert shares.charged[3] == 90.0


def test_who_stays_keeps_the_credit() -> None:
    shares = Shares({})
    shares.begin([1, 2])
    shares.charge(1, 50.0)

    shares.begin([1, 2])

    assert shares.charged[2] == 0.0


def test_after_all_were_idle_the_last_one_sets_the_mark() -> None:
    shares = Shares({})
    shares.begin([1])
    shares.charge(1, 50.0)

    shares.begin([2])

    assert shares.charged[2] == 50.0


def test_a_wrong_prediction_does_not_leave_a_high_mark() -> None:
    shares = Shares({})
    shares.begin([1])
    shares.charge(1, 1000.0)
    shares.settle(1, predicted=1000.0, seconds=0.0)

    shares.begin([1, 2])

    assert shares.charged[2] == 0.0


def test_after_a_start_those_with_work_keep_their_shares_and_others_are_equal() -> None:
    waiting = Shares({1: 5.0, 2: 80.0, 3: 1.0}, active={1, 2})
    idle = Shares({1: 5.0, 2: 80.0})

    waiting.begin([1, 2, 3])
    idle.begin([1, 2])

    assert waiting.charged == {1: 5.0, 2: 80.0, 3: 5.0}
    assert idle.charged == {1: 80.0, 2: 80.0}


def test_what_changed_is_told_once() -> None:
    shares = Shares({1: 5.0, 2: 7.0})
    shares.charge(1, 1.0)

    assert shares.unsaved() == [(1, 6.0)]
    assert shares.unsaved() == []


@given(st.lists(st.tuples(st.integers(1, 3), st.floats(0.1, 10.0)), min_size=40, max_size=80))
def test_owners_with_work_end_within_one_task_of_each_other(
    costs: list[tuple[int, float]],
) -> None:
    shares = Shares({})
    shares.begin([1, 2, 3])

    for _, cost in costs:
        least = min((1, 2, 3), key=lambda owner: shares.charged[owner])
        shares.charge(least, cost)

    charged = list(shares.charged.values())
    assert max(charged) - min(charged) <= 10.0 + 1e-9


def test_who_has_twice_the_weight_gets_twice_the_work() -> None:
    shares = Shares({})
    shares.weights = weights_of({1, 2}, [(1, "a"), (2, None)], [("a", 2.0)])
    shares.begin([1, 2])
    had = {1: 0, 2: 0}

    for _ in range(30):
        owner = min((1, 2), key=shares.turn)
        shares.charge(owner, 5.0)
        shares.settle(owner, predicted=5.0, seconds=3.0)
        had[owner] += 1

    assert had == {1: 20, 2: 10}


def test_who_comes_back_is_lifted_to_the_least_weighed_share() -> None:
    shares = Shares({})
    shares.weights = {1: 2.0}
    shares.begin([1])
    shares.charge(1, 50.0)

    shares.begin([1, 2], {1: 40.0})

    assert shares.charged == {1: 25.0, 2: 5.0}


def test_without_fair_share_all_owners_are_one_and_are_counted_still() -> None:
    shares = Shares({})
    shares.is_fair = False
    shares.begin([1, 2])

    shares.charge(1, 5.0)

    assert shares.party(1) == shares.party(2)
    assert shares.turn(shares.party(1)) == 0.0
    assert shares.charged == {1: 5.0, 2: 0.0}
