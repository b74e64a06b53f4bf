"""How long an environment is left alone while the package index is away."""

from task_server.worker.absences import FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, Absences


def test_each_wait_is_twice_as_long_up_to_a_minute() -> None:
    absences, now, waits = Absences(), 100.0, []

    for _ in range(8):
        waits.append(absences.note("a", now))
        now += waits[-1]

    assert waits[:3] == [FIRST_WAIT_SECONDS, 2 * FIRST_WAIT_SECONDS, 4 * FIRST_WAIT_SECONDS]
    assert waits[-1] == LONGEST_WAIT_SECONDS


def test_tasks_that_waited_for_one_build_wait_equally_long() -> None:
    absences = Absences()

    first = absences.note("a", 100.0)
    second = absences.note("a", 100.5)

    assert 100.5 + second == 100.0 + first


def test_what_was_built_begins_anew_and_others_are_apart() -> None:
    absences = Absences()
    absences.note("a", 100.0)

    absences.forget("a")

    assert not absences.has("a") and not absences.has("b")
    assert absences.note("a", 103.0) == FIRST_WAIT_SECONDS
