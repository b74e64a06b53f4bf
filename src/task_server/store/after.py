"""The rules of `after`: what may be waited for, and what becomes of those who waited in vain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import msgspec

from task_server.errors import Invalid
from task_server.protocol.ids import to_text
from task_server.protocol.tasks import Error
from task_server.store.attempts import AttemptReport
from task_server.store.states import Encoding, State
from task_server.store.submissions import NewTask, Submission

IN_VAIN = {
    State.FAILED: "failed",
    State.CANCELLED: "was cancelled",
    State.EXPIRED: "expired",
}
"""How a task can end so that those who wait for it never start."""
MAXIMUM_ERRORS = 100


def check(submission: Submission, new: Sequence[NewTask], there: Collection[bytes]) -> None:
    """Raise Invalid for a task that is not there to be waited for, or that waits for itself.

    `there` are the ids of tasks of this owner that new ones name and that exist.
    """
    own = {task.id for task in new}
    errors = [
        _entry(index, f"there is no task {to_text(each)} to wait for")
        for index, task in enumerate(submission.tasks)
        for each in task.after
        if each not in own and each not in there
    ]
    circle = {} if errors else _circle(new)
    errors += [
        _entry(index, "it waits for itself, perhaps by way of others, and would never start")
        for index, task in enumerate(submission.tasks)
        if task.id in circle
    ]
    if errors:
        raise Invalid(str(errors[0]["message"]), errors=errors[:MAXIMUM_ERRORS])


def _entry(index: int, message: str) -> dict[str, object]:
    return {"index": index, "field": "after", "message": message}


def _circle(new: Sequence[NewTask]) -> Collection[bytes]:
    """Tasks that can never start, for only those of one request can wait for each other."""
    own = {task.id for task in new}
    left = {task.id: own.intersection(task.after) for task in new}
    followers: dict[bytes, list[bytes]] = defaultdict(list)
    for task, afters in left.items():
        for each in afters:
            followers[each].append(task)
    ready = [task for task, afters in left.items() if not afters]
    while ready:
        done = ready.pop()
        del left[done]
        for task in followers[done]:
            left[task].discard(done)
            if not left[task]:
                ready.append(task)
    return left.keys()


def in_vain(task: bytes, state: State) -> AttemptReport:
    """What ends a task that waited for `task`, which ended so."""
    message = f"task {to_text(task)}, which this one waited for, {IN_VAIN[state]}"
    error = Error(kind="lost", type="DependencyEnded", message=message)
    return AttemptReport(
        lease=None, outcome="failed", encoding=Encoding.ERROR, answer=msgspec.json.encode(error)
    )
