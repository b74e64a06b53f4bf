"""Blobs that tasks need: looked for and noted in the transaction that stores or ends the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from task_server.errors import Invalid
from task_server.store.attempts import AttemptReport
from task_server.store.blob_names import blobs_of_report
from task_server.store.postgres.connection import PgRows
from task_server.store.postgres.group import Group
from task_server.store.postgres.known import columns
from task_server.store.records import blobs
from task_server.store.submissions import NewTask, Submission

_USE = """
INSERT INTO blob_uses (digest, number) SELECT * FROM unnest($1::text[], $2::bigint[])
ON CONFLICT DO NOTHING"""


async def check_pickles(connection: Any, submission: Submission, *, now: float) -> None:
    """Raise Invalid for functions by value that are not there; before their kinds are made."""
    named = {spec.pickle for spec in submission.specs if spec.pickle is not None}
    stored = {blob.name for blob in submission.stored}
    await _check(PgRows(connection), submission, named - stored, now=now)


async def check_submitted(group: Group, submission: Submission, new: Sequence[NewTask]) -> None:
    """Raise Invalid for a blob that is not there, Unavailable for one that is being deleted."""
    stored = {blob.name for blob in submission.stored}
    named: set[str] = set().union(*(task.blobs for task in new if task.blobs))
    rows = PgRows(group.connection)
    if stored:
        await blobs.check_kept(rows, stored, began=submission.began)
    await _check(rows, submission, named - stored, now=group.now)


async def _check(rows: PgRows, submission: Submission, names: set[str], *, now: float) -> None:
    if not names:
        return
    # First made young, which waits for one who deletes them: then what is there stays there.
    await blobs.renew(rows, names, now=now)
    missing = names - await blobs.known_to(rows, names, submission.owner)
    if missing:
        raise no_such_blob(submission, missing)


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


async def keep_submitted(
    group: Group, submission: Submission, new: Sequence[NewTask], numbers: Mapping[bytes, int]
) -> None:
    """What was stored for a request, and which of its tasks need which blobs."""
    rows = PgRows(group.connection)
    for blob in submission.stored:
        await blobs.keep(rows, blob.name, submission.owner, size=blob.size, now=group.now)
    await _use(group, ((name, numbers[task.id]) for task in new for name in task.blobs))


async def missing_blobs(group: Group, reports: Iterable[AttemptReport]) -> set[str]:
    """Blobs that answers are said to be in and that are not there."""
    names = {
        name for report in reports if report.encoding.is_blob for name in blobs_of_report(report)
    }
    return names - await blobs.known(PgRows(group.connection), names) if names else set()


def lacks_blob(report: AttemptReport, missing: set[str]) -> bool:
    """True when an answer is said to be in a blob that is not there."""
    return report.encoding.is_blob and not missing.isdisjoint(blobs_of_report(report))


async def keep_reported(group: Group, reports: Iterable[tuple[int, AttemptReport]]) -> None:
    """Which blobs tasks' answers need: (number, report)."""
    await _use(
        group, ((name, number) for number, report in reports for name in blobs_of_report(report))
    )


async def _use(group: Group, uses: Iterable[tuple[str, int]]) -> None:
    found = list(uses)
    if found:
        await group.execute(_USE, *columns(found))
