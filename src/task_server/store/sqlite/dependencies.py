"""`after`: tasks that wait until others have succeeded.

What ends a task lets go those that wait for it, in the same group; more than LIMIT of them in the
groups after it. One that ends without success takes them with it: they are cancelled, and so are
those that wait for them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from task_server.store.after import check, in_vain
from task_server.store.sqlite.change import LostUpdate, end_tasks, read_rows
from task_server.store.sqlite.due import make_due
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in, write_many
from task_server.store.sqlite.memory import Memory, Queued
from task_server.store.states import State
from task_server.store.submissions import NewTask, Submission
from task_server.store.transitions import Change

LIMIT = 5000
"""Waits that end in one group."""
_AT_ONCE = 256

Known = Mapping[bytes, tuple[int, State]]
"""Number and state of tasks that others wait for, by id."""


class _End(Struct, frozen=True):
    """How a task ended that others wait for."""

    id: bytes
    state: State


# ---- a submit


def find(group: Group, submission: Submission, new: Sequence[NewTask]) -> Known:
    """Tasks that are there and that new ones wait for. Raises Invalid when one is not there."""
    wanted = {each for task in new for each in task.after}
    if not wanted:
        return {}
    own = {task.id for task in new}
    group.write_fresh()
    rows = select_in(
        group.connection,
        "SELECT t.id, t.number, t.state FROM tasks t JOIN kinds k USING (kind)"
        f" WHERE k.owner = {int(submission.owner)} AND t.id IN ({{rows}})",
        wanted - own,
    )
    known = {each: (number, State(state)) for each, number, state in rows}
    check(submission, new, known)
    return known


def keep(
    group: Group, new: Iterable[NewTask], made: Mapping[bytes, Queued], known: Known
) -> Mapping[bytes, int]:
    """Store what new tasks wait for; how many tasks each of them waits for."""
    memory = group.memory
    pending: dict[bytes, int] = defaultdict(int)
    pairs: list[tuple[int, int]] = []
    for task in new:
        for each in dict.fromkeys(task.after) if task.after else ():
            number, state = known.get(each) or (made[each].number, State.QUEUED)
            if state is State.SUCCEEDED:
                continue
            pairs.append((made[task.id].number, number))
            pending[task.id] += 1
            memory.awaited.add(number)
            if state.is_terminal:
                memory.unfollowed.add(number)
    if pairs:
        write_many(group.connection, "INSERT INTO dependencies (task, after) VALUES {rows}", pairs)
    return pending


# ---- the end of what others wait for


def restore(memory: Memory) -> None:
    """Bring back who waits, and for whom those who ended were not followed to the end."""
    rows = memory.connection.execute(
        "SELECT d.after, t.state > 2 FROM (SELECT DISTINCT after FROM dependencies) d"
        " JOIN tasks t ON t.number = d.after"
    ).fetchall()
    memory.awaited = {number for number, _ in rows}
    memory.unfollowed = {number for number, has_ended in rows if has_ended}


def follow(group: Group) -> None:
    """Let go what waits for tasks that ended in this group, or in an earlier one."""
    memory = group.memory
    if not memory.awaited:
        return
    _note_ends(group)
    left = LIMIT
    while memory.unfollowed and left > 0:
        left -= max(_follow_some(group, left), 1)
        _note_ends(group)


def _note_ends(group: Group) -> None:
    memory = group.memory
    ended = group.ended[group.followed :]
    group.followed = len(group.ended)
    memory.unfollowed |= {each.number for each in ended if each.number in memory.awaited}


def _follow_some(group: Group, limit: int) -> int:
    """End some waits; how many."""
    memory = group.memory
    group.begin()
    looked_at = sorted(memory.unfollowed)[:_AT_ONCE]
    ended = _ended(group, looked_at)
    memory.unfollowed.difference_update(looked_at)  # what was retried meanwhile is awaited still
    waits = list(
        select_in(
            group.connection,
            "SELECT after, task FROM dependencies WHERE after IN ({rows})"
            f" ORDER BY after, task LIMIT {limit}",
            ended,
        )
    )
    waiting: dict[int, list[int]] = defaultdict(list)
    for after, task in waits:
        waiting[after].append(task)
    for after, tasks in waiting.items():
        group.connection.execute(
            "DELETE FROM dependencies WHERE after = ? AND task <= ?", (after, tasks[-1])
        )
    has_come = [each for each in waiting if ended[each].state is State.SUCCEEDED]
    _let_go(group, [task for each in has_come for task in waiting.pop(each)])
    for after, tasks in waiting.items():
        _cancel(group, ended[after], tasks)
    if len(waits) < limit:
        memory.awaited.difference_update(ended)
    else:
        memory.unfollowed |= ended.keys()
    return len(waits)


def _ended(group: Group, numbers: Sequence[int]) -> dict[int, _End]:
    rows = select_in(
        group.connection,
        f"SELECT number, id, state FROM tasks WHERE state >= {int(State.SUCCEEDED)}"
        " AND number IN ({rows})",
        numbers,
    )
    return {number: _End(task, State(state)) for number, task, state in rows}


def _let_go(group: Group, tasks: Sequence[int]) -> None:
    """Each of these waits for one less; one may come several times."""
    if not tasks:
        return
    counts = Counter(tasks)
    changed = write_many(
        group.connection,
        "UPDATE task_extras SET pending = pending - w.column2, delayed_until = CASE"
        " WHEN pending = w.column2 THEN max(ifnull(run_after, 0.0), w.column3) END"
        " FROM (VALUES {rows}) AS w WHERE task_extras.number = w.column1"
        # Each wait ends once.
        " AND pending >= w.column2",
        [(task, count, group.now) for task, count in sorted(counts.items())],
    )
    if changed != len(counts):
        raise LostUpdate("a task did not wait as its dependencies say")
    make_due(group, limit=LIMIT)


def _cancel(group: Group, end: _End, waiting: Sequence[int]) -> None:
    """T11 by the server: what they wait for will never be."""
    rows = [row for row in read_rows(group, waiting) if row.state is State.DELAYED]
    end_tasks(group, rows, Change(State.CANCELLED), report=in_vain(end.id, end.state))
