"""Tasks, batches and answers as their owners see them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Raw

from task_server.protocol import ids
from task_server.protocol.tasks import BatchView, Error, PastView, Resolved, TaskView
from task_server.server.etas import Left
from task_server.server.service import estimate, model
from task_server.server.service.batch_eta import left_of
from task_server.server.state import State
from task_server.store.attempts import Used
from task_server.store.kinds import KindSpec
from task_server.store.rows import AnswerRow, BatchRow, Ended, PastOutcome, TaskRow
from task_server.store.states import Encoding
from task_server.store.states import State as TaskState

encode = msgspec.json.Encoder().encode

_STATE_WORDS = tuple(state.word.encode() for state in TaskState)
"""By number."""


def moment(seconds: float | None) -> datetime | None:
    """Unix seconds as a time in UTC."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def task_view(state: State, row: TaskRow) -> TaskView:
    """A task."""
    used = row.used or Used()
    ran = row.used is not None
    known = state.store.statistics(row.spec.function_key)
    view = TaskView(
        id=ids.to_text(row.id),
        batch=None if row.batch is None else ids.to_text(row.batch),
        state=row.state.word,  # type: ignore[arg-type]  # the names of the states
        phase=_phase(state, row),
        function=row.spec.function,
        module=row.spec.module,
        package=_package(row.spec),
        resolved=_resolved(state, used, row),
        environment=row.environment,
        attempt=row.attempt,
        generation=row.generation,
        worker=used.worker or row.worker,
        submitted_at=datetime.fromtimestamp(row.submitted_at, UTC),
        started_at=moment(row.started_at),
        ended_at=moment(row.ended_at),
        queue_seconds=None if row.started_at is None else row.started_at - row.submitted_at,
        install_seconds=used.install_seconds if ran else None,
        run_seconds=used.run_seconds if ran else None,
        cpu_seconds=used.cpu_seconds if ran else None,
        peak_bytes=used.peak_bytes if ran else None,
        sandbox=used.sandbox if ran else None,
        tags=list(row.spec.tags),
        estimate=estimate.task_estimate(
            row.predicted, row.predicted_high, known.calls if known else 0
        ),
        encoding=row.encoding.word if row.encoding is not None else None,
    )
    if view.phase == "locking" and row.request_error is not None:
        view.waits_for = row.request_error
    if row.limit_seconds is not None:
        view.timeout_seconds, view.timeout_why = row.limit_seconds, row.limit_why or ""
    _add_outcome(view, row.encoding, row.outcome)
    return view


def _package(spec: KindSpec) -> str | list[str] | None:
    if len(spec.package) > 1:
        return list(spec.package)
    return spec.package[0] if spec.package else None


def _resolved(state: State, used: Used, row: TaskRow) -> Resolved | None:
    if used.resolved is None:
        return None
    versions = state.versions.get(row.environment or "") if row.spec.package else None
    return Resolved(
        module=used.resolved.get("module"), rule=used.resolved.get("rule"), versions=versions
    )


async def read_versions(state: State, rows: Sequence[TaskRow]) -> None:
    """Have the versions at hand that the views of these tasks tell."""
    missing = {row.environment for row in rows if row.spec.package} - state.versions.keys()
    for environment in missing:
        if environment is not None:
            await model.read_versions(state, environment)


def past_view(past: PastOutcome) -> PastView:
    """What a task came to before a manual retry."""
    view = PastView(
        generation=past.generation,
        attempt=past.attempt,
        state=past.state.word,  # type: ignore[arg-type]  # the names of the states
        started_at=moment(past.started_at),
        ended_at=datetime.fromtimestamp(past.ended_at, UTC),
    )
    if past.encoding is Encoding.ERROR and past.outcome is not None:
        view.error = msgspec.json.decode(past.outcome, type=Error)
    return view


def _phase(state: State, row: TaskRow) -> str | None:
    if row.state is TaskState.QUEUED:
        return "waiting" if row.request_state == 1 else "locking"
    if row.state is not TaskState.RUNNING:
        return None
    return state.store.phase(row.number)


def _add_outcome(view: TaskView, encoding: Encoding | None, outcome: bytes | None) -> None:
    if encoding is None or outcome is None:
        return
    if encoding is Encoding.ERROR:
        view.error = msgspec.json.decode(outcome, type=Error)
    elif encoding.is_blob:
        view.blob = outcome.decode()
    else:
        view.answer = Raw(outcome)


def answer_line(end: Ended | AnswerRow, cursor: str, identifier: str | None = None) -> bytes:
    """A member of a batch as one line of NDJSON; `identifier`: its id's text, if that is known."""
    encoding, outcome = end.encoding, end.outcome
    line = b'{"index":%d,"id":"%s","state":"%s","cursor":"%s"' % (
        end.position,
        (identifier or ids.to_text(end.id)).encode(),
        _STATE_WORDS[end.state],
        cursor.encode(),
    )
    if encoding is Encoding.JSON and outcome is not None:  # nearly all
        return line + b',"encoding":"json","answer":%s}\n' % outcome
    if encoding is None or outcome is None:
        return line + b"}\n"
    if encoding is Encoding.ERROR:
        return line + b',"error":' + outcome + b"}\n"
    word = encoding.word or ""
    if encoding.is_blob:
        return line + b',"encoding":"%s","blob":"%s"}\n' % (word.encode(), outcome)
    return line + b',"encoding":"%s","answer":%s}\n' % (word.encode(), outcome)


async def batch_view(state: State, row: BatchRow) -> BatchView:
    """A batch, with its ETA."""
    counts = {
        "queued": row.queued,
        "delayed": row.delayed,
        "running": row.running,
        "succeeded": row.succeeded,
        "failed": row.failed,
        "cancelled": row.cancelled,
        "expired": row.expired,
    }
    whole = max(row.total, row.expected or 0)
    left = await _left_of_batch(state, row)
    return BatchView(
        id=ids.to_text(row.id),
        name=row.name,
        open=row.is_open,
        total=row.total,
        expected=row.expected,
        counts=counts,
        progress=row.ended / whole if whole else float(not row.is_open),
        core_seconds=left.core_seconds,
        eta=left.eta,
    )


async def _left_of_batch(state: State, row: BatchRow) -> Left:
    """By the model where it can tell, else by the table."""
    open_kinds = [] if row.ended == row.total else await state.store.batch_kinds(row.batch)
    found = await left_of(state, row, open_kinds)
    if found is not None:
        return found
    piles = [estimate.pile_of(state, *each) for each in open_kinds]
    work = estimate.sum_of(piles)
    longest = max((pile.price.p50 for pile in piles), default=0.0)
    eta = estimate.eta(work, await estimate.slots(state), longest=longest)
    return Left(state.clock(), row.ended, work.quantiles(), eta)
