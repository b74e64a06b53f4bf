"""Numbers of exchanges, and what is told when."""

from __future__ import annotations

import time

import pytest

from task_server.protocol.workers import Exchange, Held, Joined, Report
from task_server.worker.session import EnvironmentWord, Session

REPORT = Report(lease="1.1.ab", outcome="succeeded")
HELD = [Held("1.1.ab")]


def begun() -> Session:
    session = Session()
    session.begin(Joined("w", "s", 1, 60.0, 20.0), asked_at=time.monotonic())
    return session


def ask(
    session: Session, *, waits: bool = True, states: dict[str, EnvironmentWord] | None = None
) -> Exchange:
    return session.ask(
        [], want=1, waits=waits, draining=False, held=lambda: HELD, states=states or {}, orders=[]
    )


def report(session: Session, *, is_parked: bool) -> Exchange:
    return session.report([REPORT], is_parked=is_parked, draining=False)


def test_reports_beside_a_parked_exchange_do_not_end_it() -> None:
    session = begun()
    ask(session, waits=False)
    parked = ask(session)

    beside = [report(session, is_parked=True) for _ in range(2)]

    assert all(0 < each.number < parked.number for each in beside)
    assert ask(session).number > parked.number


def test_a_report_before_the_next_park_is_lower_than_it() -> None:
    session = begun()
    ask(session)

    told = report(session, is_parked=False)

    assert told.number < ask(session).number


def test_numbers_begin_at_one_though_an_older_session_is_still_parked() -> None:
    session = begun()

    assert report(session, is_parked=True).number == 1
    session.begin(Joined("w", "t", 1, 60.0, 20.0), asked_at=time.monotonic())
    ask(session)
    assert report(session, is_parked=True).number == 2


def test_what_is_held_is_listed_first_and_after_a_doubt() -> None:
    session = begun()

    assert ask(session).held == HELD
    assert ask(session).held is None
    session.doubt()
    assert ask(session).held == HELD


def test_each_state_of_an_environment_is_told_once() -> None:
    session = begun()

    first = ask(session, states={"e": "building"})
    again = ask(session, states={"e": "building"})
    then = ask(session, states={"e": "ready"})

    assert [each.state for each in first.environments] == ["building"]
    assert again.environments == []
    assert [each.state for each in then.environments] == ["ready"]


def test_only_the_newest_reply_counts_as_seen() -> None:
    session = begun()
    session.saw(3, asked_at=0.0)
    session.saw(2, asked_at=0.0)

    assert ask(session).seen == 3


@pytest.mark.parametrize(("lease", "margin"), [(60.0, 5.0), (600.0, 5.0), (6.0, 0.5)])
def test_leases_are_doubtful_a_little_before_they_run_out(lease: float, margin: float) -> None:
    session = Session()
    now = time.monotonic()

    session.begin(Joined("w", "s", 1, lease, lease / 3), asked_at=now - lease + margin + 0.3)
    is_early = session.is_doubtful()
    session.begin(Joined("w", "s", 1, lease, lease / 3), asked_at=now - lease + margin - 0.1)

    assert not is_early and session.is_doubtful()


def test_a_reply_renews_as_of_when_it_was_asked_for() -> None:
    session = Session()
    now = time.monotonic()
    session.begin(Joined("w", "s", 1, 60.0, 20.0), asked_at=now - 100)

    session.saw(1, asked_at=now - 58)
    is_late = session.is_doubtful()
    session.saw(2, asked_at=now)
    session.saw(3, asked_at=now - 90)  # replies need not come in order

    assert is_late and not session.is_doubtful()
