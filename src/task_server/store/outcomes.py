"""What attempts come to: how outcomes are told apart, and where they lie."""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from task_server.protocol.tasks import Error
from task_server.scheduling.memory import after_running_out
from task_server.scheduling.requires import requires_of
from task_server.scheduling.statistics import Run
from task_server.store.attempts import AttemptReport, Used
from task_server.store.kinds import KindSpec
from task_server.store.states import Encoding, State
from task_server.store.transitions import Change

INLINE_BYTES = 1024
"""Payloads up to this size lie in the task's row; rows that are updated stay small."""
LOST = {
    "lost": "the worker or its runner was lost each time the task was started",
    "environment": "no worker could build the environment",
}


def in_row(data: bytes | None) -> bytes | None:
    """The payload as it lies in the row; None when it goes to the payloads."""
    return data if data is None or len(data) <= INLINE_BYTES else None


def digest_of(encoding: Encoding, answer: bytes) -> bytes:
    """What tells one outcome from another."""
    return blake2b(bytes([encoding]) + answer, digest_size=16).digest()


def outcome_of(
    change: Change, report: AttemptReport | None
) -> tuple[Encoding | None, bytes | None]:
    """What a task ends with: what its worker told, or why it failed without a word."""
    if report is not None and (report.answer or change.state is State.SUCCEEDED):
        return report.encoding, report.answer
    if change.state is not State.FAILED:
        return None, None
    error = Error(kind=change.kind, type=change.kind, message=LOST[change.kind])  # type: ignore[arg-type]  # lost or environment
    return Encoding.ERROR, msgspec.json.encode(error)


def plausible(used: Used) -> Used:
    """What a worker measured, nothing where that cannot be: one NaN would spoil a sum for ever."""
    seconds = (used.run_seconds, used.install_seconds, used.import_seconds, used.cpu_seconds)
    # A NaN among them makes the sum one, and none is less than anything.
    is_plausible = sum(seconds) < 1e9 and min(seconds) >= 0.0 and 0 <= used.peak_bytes < 2**60
    return used if is_plausible else Used(resolved=used.resolved, worker=used.worker)


def ran_out_of_memory(report: AttemptReport) -> bool:
    """Whether it was ended for want of memory."""
    return report.outcome == "failed" and report.error_kind == "out_of_memory"


def roomier(spec: KindSpec, report: AttemptReport) -> KindSpec:
    """The spec of a task for its next attempt, after one that ran out of memory."""
    peak_bytes = report.used.peak_bytes if report.used is not None else 0
    requires = after_running_out(requires_of(spec.requires), peak_bytes)
    return msgspec.structs.replace(spec, requires=requires.text if requires else "")


def run_of(used: Used, *, queue_seconds: float, predicted: float, high: float) -> Run:
    """What is counted of an attempt that ended."""
    return (
        used.run_seconds,
        max(queue_seconds, 0.0),
        used.install_seconds,
        used.import_seconds,
        used.cpu_seconds,
        used.peak_bytes,
        predicted,
        high,
    )
