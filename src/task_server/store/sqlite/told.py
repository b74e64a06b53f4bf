"""What is told of a task that its holder ended, by what the memory knows of its lease."""

from __future__ import annotations

from task_server.store.attempts import AttemptReport
from task_server.store.kinds import AUTO
from task_server.store.rows import Ended, TaskRow
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import SERVER, Running, Session
from task_server.store.states import State


def as_read(
    group: Group, session: Session, report: AttemptReport, running: Running
) -> TaskRow | None:
    """The ended task as `records.tasks.find` reads it; None for what has more to it than a lease.

    A look at the database takes a fifth of a single call: another connection's commit has made
    every page that it kept invalid.
    """
    spec = running.kind.spec
    is_plain = session.facts.is_plain or spec.timeout == AUTO
    if is_plain or running.batch is not None or running.attempt != 1:  # 1: not tried again, either
        return None
    lane = group.memory.lanes[running.kind.lane]
    return TaskRow(
        number=running.number,
        id=running.id,
        batch=None,
        spec=spec,
        state=State.SUCCEEDED if report.outcome == "succeeded" else State.FAILED,
        submitted_at=running.submitted_at,
        predicted=running.predicted,
        predicted_high=running.predicted_high,
        attempt=running.attempt,
        generation=0,
        worker=session.facts.name,
        started_at=running.started_at,
        ended_at=ended_at(group, running),
        encoding=report.encoding,
        outcome=report.answer,
        used=report.used,
        environment=lane.environment,
        request_state=group.memory.requests_by_number[lane.request].state,
    )


def ended(report: AttemptReport, running: Running, n: int) -> Ended:
    """As told to whoever waits."""
    return Ended(
        running.number,
        running.id,
        running.kind.spec.owner,
        running.batch,
        running.position if running.position is not None else -1,
        State.SUCCEEDED if report.outcome == "succeeded" else State.FAILED,
        SERVER,
        n,
        report.encoding,
        report.answer,
    )


def ended_at(group: Group, running: Running) -> float:
    """When it ended."""
    return max(group.now, running.started_at)  # the clock may have been set back
