"""From what the server assigns to what a runner is asked, and back to what is reported."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Raw, Struct, UnsetType

from task_server.protocol.tasks import Error, ErrorKind
from task_server.protocol.workers import (
    Assignment,
    FunctionReference,
    Held,
    Limits,
    Phase,
    Report,
    Usage,
)
from task_server.worker.calls import Call, CallLimits, Outcome

BLOB_BYTES = 65536
"""Larger answers are uploaded before they are reported."""


class RunnerKey(Struct, frozen=True):
    """What tells runners apart."""

    owner: str
    environment: str
    limits: Limits | None = None
    fresh: str = ""
    """The lease of the one task that it is for."""


class Attempt(Struct, eq=False):
    """One leased task on this worker."""

    assignment: Assignment
    phase: Phase = "leased"
    install_seconds: float = 0.0
    call: Call | None = None
    """Once all that it needs is there."""
    files: tuple[Path, ...] = ()
    """Of blobs that it needs."""

    @property
    def lease(self) -> str:
        """What names it."""
        return self.assignment.lease

    @property
    def runner_key(self) -> RunnerKey:
        """Runners serve one owner and one environment, within the same limits."""
        assignment = self.assignment
        limits = None if isinstance(assignment.limits, UnsetType) else assignment.limits
        # By its lease a task that wants a process of its own finds none, and leaves none.
        fresh = assignment.lease if assignment.isolation == "fresh" else ""
        return RunnerKey(assignment.owner, assignment.environment, limits, fresh)

    def held(self) -> Held:
        """As told in the list of what is held."""
        return Held(self.lease, self.phase)


def needs_nothing(assignment: Assignment) -> bool:
    """Whether it can be called without fetching anything."""
    if not isinstance(assignment.function, str) or isinstance(assignment.call, Struct):
        return False
    return b'"$blob"' not in bytes(assignment.args) + bytes(assignment.kwargs)


def plain_call(assignment: Assignment, limits: CallLimits) -> Call:
    """The call of a function by name with JSON arguments."""
    assert isinstance(assignment.function, str)
    args, kwargs = bytes(assignment.args) or b"[]", bytes(assignment.kwargs) or b"{}"
    return Call(
        lease=assignment.lease,
        function=assignment.function,
        module=assignment.module,
        package=assignment.package,
        payload=b"[" + args + b"," + kwargs + b"]",
        result_encoding=assignment.result_encoding,
        timeout_seconds=assignment.timeout_seconds,
        timeout_why=assignment.timeout_why,
        limits=_call_limits(assignment, limits),
    )


def other_call(
    assignment: Assignment,
    limits: CallLimits,
    *,
    encoding: Literal["json", "pickle"],
    payload: bytes | Path,
    pickled: bytes | None,
    blobs: dict[str, str],
) -> Call:
    """The call of a function by value, or with encoded arguments, which may be in a file."""
    function = assignment.function
    return Call(
        lease=assignment.lease,
        function=function.name if isinstance(function, FunctionReference) else function,
        module=assignment.module,
        package=assignment.package,
        pickled=pickled,
        encoding=encoding,
        payload=os.fsencode(payload),
        is_in_file=isinstance(payload, Path),
        result_encoding=assignment.result_encoding,
        timeout_seconds=assignment.timeout_seconds,
        timeout_why=assignment.timeout_why,
        blobs=blobs,
        limits=_call_limits(assignment, limits),
    )


def _call_limits(assignment: Assignment, limits: CallLimits) -> CallLimits:
    asked = assignment.limits
    if isinstance(asked, UnsetType) or asked.log_bytes is None:
        return limits
    log_bytes = min(asked.log_bytes, limits.log_bytes)
    return msgspec.structs.replace(limits, log_bytes=log_bytes)


def report_of(
    attempt: Attempt, outcome: Outcome, *, sandbox: int = 0
) -> tuple[Report, list[tuple[str, bytes]]]:
    """The report of an outcome, and the blobs to upload before it goes out.

    `sandbox` is the level that held it.
    """
    uploads = [(_named(digest), data) for digest, data in outcome.side_blobs]
    usage = outcome.usage
    if usage is not None:
        usage.install_seconds, usage.sandbox = attempt.install_seconds, sandbox
    report = Report(
        lease=attempt.lease,
        outcome=outcome.outcome,
        encoding=outcome.encoding,
        error=outcome.error,
        resolved=outcome.resolved,
        usage=usage,
        log=base64.b64encode(outcome.log).decode() if outcome.log else None,
    )
    if outcome.outcome != "succeeded":
        return report, uploads
    # An answer that is not there must stay the default: another empty Raw is no JSON.
    if len(outcome.answer) > BLOB_BYTES:
        report.blob = "sha256:" + hashlib.sha256(outcome.answer).hexdigest()
        uploads.append((report.blob, outcome.answer))
    elif outcome.encoding == "pickle":
        report.answer = Raw(b'"' + base64.b64encode(outcome.answer) + b'"')
    else:
        report.answer = Raw(outcome.answer)
    return report, uploads


def _named(digest: str) -> str:
    return digest if digest.startswith("sha256:") else f"sha256:{digest}"


def failed(attempt: Attempt, kind: ErrorKind, message: str) -> Report:
    """The report of an attempt that could not be made."""
    error = Error(kind=kind, type=kind, message=message)
    usage = Usage(install_seconds=attempt.install_seconds)
    return Report(lease=attempt.lease, outcome="failed", error=error, usage=usage)


def refused(report: Report, message: str) -> Report:
    """The report in place of one whose answer the server does not take."""
    error = Error(kind="too_big", type="too_big", message=message)
    return Report(
        lease=report.lease, outcome="failed", error=error, usage=report.usage, log=report.log
    )


def released(attempt: Attempt, *, unfit: bool = False, pause_seconds: float = 0.0) -> Report:
    """The report of an attempt that never started."""
    return Report(lease=attempt.lease, outcome="released", unfit=unfit, pause=pause_seconds)


def broken_off(attempt: Attempt) -> Report:
    """The report of an attempt that is given back though it runs: it has used something."""
    return Report(lease=attempt.lease, outcome="released", usage=Usage())


def crashed(attempt: Attempt, message: str) -> Report:
    """The report of an attempt whose runner was ended from outside."""
    error = Error(kind="lost", type="RunnerLost", message=message)
    return Report(lease=attempt.lease, outcome="crashed", error=error)
