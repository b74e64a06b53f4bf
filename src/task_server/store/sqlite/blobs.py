"""Blobs that tasks need: looked for and noted in the transaction that stores or ends the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from task_server.errors import Invalid
from task_server.store.attempts import AttemptReport
from task_server.store.blob_names import blobs_of_report
from task_server.store.records import blobs
from task_server.store.records.sql import finish_now
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.memory import Queued
from task_server.store.sqlite.rows import SqliteRows
from task_server.store.submissions import NewTask, Submission


def check_submitted(group: Group, submission: Submission, new: Sequence[NewTask]) -> None:
    """Raise Invalid for a blob that is not there, Unavailable for one that is being deleted."""
    named = _named(group, submission, new)
    if not named and not submission.stored:
        return
    rows = SqliteRows(group.connection)
    stored = {blob.name for blob in submission.stored}
    finish_now(blobs.check_kept(rows, stored, began=submission.began))
    named -= stored
    if not named:
        return
    missing = named - finish_now(blobs.known_to(rows, named, submission.owner))
    if missing:
        raise no_such_blob(submission, missing)
    finish_now(blobs.renew(rows, named, now=group.now))


def _named(group: Group, submission: Submission, new: Sequence[NewTask]) -> set[str]:
    # What a known kind needs is there as long as the kind.
    kinds = group.memory.kinds_by_spec
    named = {s.pickle for s in submission.specs if s.pickle is not None and s not in kinds}
    for task in new:
        if task.blobs:
            named.update(task.blobs)
    return named


def no_such_blob(submission: Submission, missing: set[str]) -> Invalid:
    """The error for blobs that are not there: an entry for each task that needs one of them."""
    message = "there is no such blob; PUT it first"
    errors: list[dict[str, object]] = []
    for index, task in enumerate(submission.tasks):
        if submission.specs[task.spec].pickle in missing:
            errors.append({"index": index, "field": "function.pickle", "message": message})
        elif not missing.isdisjoint(task.blobs):
            field = "call.blob" if task.payload.startswith(b'"call"') else "args"
            errors.append({"index": index, "field": field, "message": message})
    return Invalid(message, errors=errors[:100])


def keep_submitted(
    group: Group, submission: Submission, new: Sequence[NewTask], made: Mapping[bytes, Queued]
) -> None:
    """What was stored for a request, and which of its tasks need which blobs."""
    rows = SqliteRows(group.connection)
    for blob in submission.stored:
        finish_now(blobs.keep(rows, blob.name, submission.owner, size=blob.size, now=group.now))
    for task in new:
        if task.blobs:
            finish_now(blobs.use(rows, task.blobs, made[task.id].number))


def lacks_blob(group: Group, report: AttemptReport) -> bool:
    """True when an answer is said to be in a blob that is not there."""
    if not report.encoding.is_blob:
        return False
    return not finish_now(blobs.known(SqliteRows(group.connection), blobs_of_report(report)))


def keep_reported(group: Group, number: int, report: AttemptReport) -> None:
    """Which blobs a task's answer needs."""
    names = blobs_of_report(report)
    if names:
        finish_now(blobs.use(SqliteRows(group.connection), names, number))
