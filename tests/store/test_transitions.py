"""DELIVERY's table, row by row, and the model beside it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from task_server.store import transitions
from task_server.store.states import OPEN, TERMINAL, State
from task_server.store.transitions import Issued, Policy, Row
from tests.delivery_model import Model, Task

POLICY = Policy()
ONE, TWO = b"1" * 16, b"2" * 16
HOLDS, HELD = Issued(True, None), Issued(False, None)


def row(state: State = State.RUNNING, **options: Any) -> Row:
    fields: dict[str, Any] = {
        "number": 1,
        "state": state,
        "generation": 0,
        "attempt": 1,
        "errors": 0,
        "crashes": 0,
        "undelivered": 0,
        "releases": 0,
        "unstarted": 0,
        "max_attempts": 1,
        "at_most_once": False,
        "retry_on": frozenset({"exception"}),
        "backoff": 1.0,
    }
    return Row(**{**fields, **options})


def answer(
    row: Row | None,
    issued: Issued | None,
    *,
    ok: bool = True,
    kind: str = "exception",
    policy: Policy = POLICY,
) -> transitions.Verdict:
    return transitions.answer(
        row,
        issued,
        any_issued=issued is not None,
        is_success=ok,
        digest=ONE,
        kind=kind,
        policy=policy,
        jitter=0.5,
    )


@pytest.mark.parametrize(
    "row,issued,ok,status,duplicate,state",
    [
        (None, None, True, 404, False, None),  # A2
        (row(), None, True, 404, False, None),  # A2
        (row(State.SUCCEEDED), Issued(False, (True, ONE)), True, 200, True, None),  # A4
        (row(State.DELAYED), Issued(False, (False, ONE)), False, 200, True, None),  # A4
        (row(State.RUNNING), Issued(False, (True, ONE)), False, 409, False, None),  # another one
        (row(State.CANCELLED), HELD, True, 410, False, None),  # A5
        (row(State.EXPIRED), HELD, True, 410, False, None),  # A5
        (row(State.SUCCEEDED), Issued(False, (True, TWO)), True, 409, False, None),  # A5
        (row(State.FAILED), HELD, True, 409, False, None),  # A5
        (row(), HELD, False, 409, False, None),  # A7
        (row(), HELD, True, 200, False, State.SUCCEEDED),  # A8, late
        (row(State.QUEUED), HELD, True, 200, False, State.SUCCEEDED),  # A8, late
        (row(State.DELAYED), HELD, True, 200, False, State.SUCCEEDED),  # A8, late
        (row(), HOLDS, True, 200, False, State.SUCCEEDED),  # A8
        (row(), HOLDS, False, 200, False, State.FAILED),  # A9, T8
        (row(max_attempts=2), HOLDS, False, 200, False, State.DELAYED),  # A9, T7
        (row(max_attempts=2, errors=1), HOLDS, False, 200, False, State.FAILED),  # A9, T8
    ],
)
def test_an_answer(
    row: Row | None,
    issued: Issued | None,
    ok: bool,
    status: int,
    duplicate: bool,
    state: State | None,
) -> None:
    verdict = answer(row, issued, ok=ok)

    assert (verdict.status, verdict.duplicate) == (status, duplicate)
    assert (verdict.change.state if verdict.change else None) == state


def test_a_lease_that_is_not_this_workers_is_a_conflict() -> None:
    verdict = transitions.answer(
        row(),
        None,
        any_issued=True,
        is_success=True,
        digest=ONE,
        kind="",
        policy=POLICY,
        jitter=0.0,
    )

    assert (verdict.status, verdict.change) == (409, None)


def test_late_successes_can_be_refused() -> None:
    policy = Policy(late_success=False)

    assert answer(row(), HELD, policy=policy).status == 409
    assert answer(row(), HOLDS, policy=policy).status == 200


def test_a_failure_is_counted_and_says_why() -> None:
    change = answer(row(errors=0, max_attempts=3, crashes=2), HOLDS, ok=False).change
    assert change is not None
    assert (change.errors, change.crashes, change.kind) == (1, 2, "")

    change = answer(row(max_attempts=3), HOLDS, ok=False, kind="timeout").change
    assert change is not None
    assert (change.state, change.errors, change.kind) == (State.FAILED, 1, "timeout")


@pytest.mark.parametrize(
    "options,was_delivered,state,crashes,undelivered",
    [
        ({}, True, State.DELAYED, 1, 0),
        ({"crashes": 1}, True, State.DELAYED, 2, 0),
        ({"crashes": 2}, True, State.FAILED, 3, 0),
        ({}, False, State.DELAYED, 0, 1),
        ({"undelivered": 18}, False, State.DELAYED, 0, 19),
        ({"undelivered": 19}, False, State.FAILED, 0, 20),
        ({"at_most_once": True}, True, State.FAILED, 0, 0),
        ({"at_most_once": True}, False, State.FAILED, 0, 0),
    ],
)
def test_a_crash(
    options: dict[str, Any], was_delivered: bool, state: State, crashes: int, undelivered: int
) -> None:
    change = transitions.crash(
        row(**options), was_delivered=was_delivered, policy=POLICY, jitter=0.5
    )

    assert (change.state, change.crashes, change.undelivered) == (state, crashes, undelivered)
    assert change.kind == ("lost" if state is State.FAILED else "")
    assert (change.wait_seconds > 0) == (state is State.DELAYED)


def test_a_release_costs_nothing() -> None:
    change = transitions.release(row(unstarted=7), unfit=False, is_withdrawn=False, policy=POLICY)

    assert (change.state, change.unstarted, change.releases) == (State.QUEUED, 8, 0)


@pytest.mark.parametrize(
    "releases,state", [(0, State.QUEUED), (3, State.QUEUED), (4, State.FAILED)]
)
def test_an_unfit_release_counts(releases: int, state: State) -> None:
    change = transitions.release(
        row(releases=releases), unfit=True, is_withdrawn=False, policy=POLICY
    )

    assert (change.state, change.releases, change.unstarted) == (state, releases + 1, 0)
    assert change.kind == ("environment" if state is State.FAILED else "")


@pytest.mark.parametrize("unfit", [False, True])
def test_a_release_ends_what_was_to_be_cancelled_unless_it_started(unfit: bool) -> None:
    change = transitions.release(row(releases=4), unfit=unfit, is_withdrawn=True, policy=POLICY)

    assert (change.state, change.kind) == (State.CANCELLED, "")


@pytest.mark.parametrize("state", list(State))
def test_a_cancel_and_a_retry(state: State) -> None:
    may_be_cancelled = state in (*OPEN, State.CANCELLED)
    may_be_retried = state in (State.FAILED, State.CANCELLED, State.EXPIRED)

    cancelled, retried = transitions.cancel(state), transitions.retry(state)

    assert (cancelled.status == 200) == may_be_cancelled
    assert (cancelled.change is not None) == (state in OPEN)
    assert (retried.status == 200) == (retried.change is not None) == may_be_retried
    assert state.is_terminal == (state in TERMINAL)


@given(st.integers(0, 100), st.floats(0.0, 0.999), st.floats(0.0, 1e6))
def test_waits_are_bounded(count: int, jitter: float, backoff: float) -> None:
    assert 1.0 <= transitions.retry_wait(row(errors=count, backoff=backoff), jitter) <= 3600.0
    assert 0.5 <= transitions.crash_wait(count, jitter) <= 60.0


# ---- the model

COUNTS = st.fixed_dictionaries(
    {
        "errors": st.integers(0, 3),
        "crashes": st.integers(0, 2),
        "undelivered": st.integers(0, 19),
        "releases": st.integers(0, 4),
        "max_attempts": st.integers(1, 4),
        "at_most_once": st.booleans(),
    }
)


def task_of(state: State, counts: dict[str, Any], *, told: Any = None) -> tuple[Model, Any]:
    """A model with one task in that state, given to `w` by lease `l` and perhaps lost again."""
    model = Model()
    task = Task("t", "u", b"", 1, **counts)
    model.tasks["t"] = task
    task.state = state.word
    task.issued = {"l": ("w", 0)}
    if state is State.RUNNING:
        task.lease, task.holder, task.deadline = "l", "w", 60.0
    if state is State.SUCCEEDED:
        task.result = b""
    if told is not None:
        task.outcomes["l"] = told
    return model, task


def same(change: transitions.Change | None, state: State, task: Any) -> None:
    """The change leads to what the model's task has become."""
    assert (change.state if change else state).word == task.state
    if change is not None and task.state != "succeeded":
        assert (change.errors, change.crashes, change.undelivered, change.releases) == (
            task.errors,
            task.crashes,
            task.undelivered,
            task.releases,
        )


@given(
    state=st.sampled_from(State),
    counts=COUNTS,
    holds=st.booleans(),
    told=st.sampled_from([None, (True, ONE), (False, ONE), (True, TWO)]),
    ok=st.booleans(),
    retryable=st.booleans(),
)
def test_answers_as_the_model_has_them(
    state: State,
    counts: dict[str, Any],
    holds: bool,
    told: Any,
    ok: bool,
    retryable: bool,
) -> None:
    model, task = task_of(state, counts, told=told)
    if state is State.RUNNING and not holds:
        task.lease, task.issued["m"] = "m", ("x", 0)

    status, reply = model.answer("w", "t", ONE, ok=ok, retryable=retryable, lease="l")

    is_holder = state is State.RUNNING and holds
    verdict = answer(
        row(state, **counts),
        Issued(is_holder, told),
        ok=ok,
        kind="exception" if retryable else "timeout",
    )
    assert (verdict.status, verdict.duplicate) == (status, reply.get("duplicate", False))
    same(verdict.change, state, task)


@given(counts=COUNTS, was_delivered=st.booleans())
def test_crashes_as_the_model_has_them(counts: dict[str, Any], was_delivered: bool) -> None:
    model, task = task_of(State.RUNNING, counts)
    task.renewed = was_delivered

    model._crash(task)

    change = transitions.crash(
        row(**counts), was_delivered=was_delivered, policy=POLICY, jitter=0.0
    )
    same(change, State.RUNNING, task)


@given(counts=COUNTS, unfit=st.booleans())
def test_releases_as_the_model_has_them(counts: dict[str, Any], unfit: bool) -> None:
    model, task = task_of(State.RUNNING, counts)

    model.release("w", "t", "l", unfit=unfit)

    change = transitions.release(row(**counts), unfit=unfit, is_withdrawn=False, policy=POLICY)
    same(change, State.RUNNING, task)
