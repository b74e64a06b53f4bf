"""Kinds, lanes, requests and functions that no task needs any more, in the tables and in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from task_server.store.records.sql import Rows
from task_server.store.sqlite.group import Group
from task_server.store.sqlite.many import select_in
from task_server.store.sqlite.memory import Memory

PIECE = 500
"""Of each in one transaction."""
_NO_TASKS = "NOT EXISTS (SELECT 1 FROM kind_load l WHERE l.kind = kinds.kind AND l.stored > 0)"
_NO_KINDS = "lane NOT IN (SELECT lane FROM kinds)"
_NO_LANES = (
    "request NOT IN (SELECT request FROM lanes)"
    " AND text NOT IN (SELECT request FROM environment_orders)"
)
_NOT_CALLED = "function NOT IN (SELECT function FROM kinds)"


class Unused(Struct):
    """Numbers of what seems to be needed no more."""

    kinds: Sequence[int]
    lanes: Sequence[int]
    requests: Sequence[int]
    functions: Sequence[int]
    """Needed no more since just now."""
    old_functions: Sequence[int]
    """Whose statistics have been kept long enough."""

    @property
    def is_some(self) -> bool:
        """Whether there is anything."""
        found = (self.kinds, self.lanes, self.requests, self.functions, self.old_functions)
        return any(found)


async def find_unused(rows: Rows, *, before: float) -> Unused:
    """Some of what is needed no more; functions are old when that was so at `before`."""

    async def some(sql: str, *values: object) -> list[int]:
        return [number for (number,) in await rows.fetch(f"{sql} LIMIT {PIECE}", *values)]

    return Unused(
        await some(f"SELECT kind FROM kinds WHERE {_NO_TASKS}"),
        await some(f"SELECT lane FROM lanes WHERE {_NO_KINDS}"),
        await some(f"SELECT request FROM environment_requests WHERE {_NO_LANES}"),
        await some(f"SELECT function FROM functions WHERE unused_since IS NULL AND {_NOT_CALLED}"),
        await some(
            f"SELECT function FROM functions WHERE unused_since <= ? AND {_NOT_CALLED}", before
        ),
    )


def forget(group: Group, unused: Unused) -> int:
    """Remove what of it is needed no more still; how many rows."""
    memory = group.memory
    # What this group submits is counted at its end.
    kinds = [kind for kind in unused.kinds if kind not in group.stored]
    removed = _forget_kinds(group, kinds)
    removed += _forget_lanes(group, unused.lanes)
    for number, text in _delete(
        group, "environment_requests", "request", unused.requests, _NO_LANES, "request, text"
    ):
        memory.requests_by_number.pop(number, None)
        memory.requests.pop(text, None)
        removed += 1
    removed += _rest_functions(group, unused.functions)
    return removed + _forget_functions(memory, group, unused.old_functions)


def _forget_kinds(group: Group, kinds: Sequence[int]) -> int:
    memory = group.memory
    gone = [kind for (kind,) in _delete(group, "kinds", "kind", kinds, _NO_TASKS, "kind")]
    for number in gone:
        kind = memory.kinds.pop(number, None)
        if kind is not None:
            memory.kinds_by_spec.pop(kind.spec, None)
    _delete(group, "kind_load", "kind", gone, "queued = 0", "kind")
    return len(gone)


def _forget_lanes(group: Group, lanes: Sequence[int]) -> int:
    memory = group.memory
    gone = _delete(group, "lanes", "lane", lanes, _NO_KINDS, "lane")
    for (number,) in gone:
        lane = memory.lanes.pop(number)
        memory.active.discard(number)
        del memory.lanes_by_key[lane.key]
    return len(gone)


def _rest_functions(group: Group, functions: Sequence[int]) -> int:
    """From now on their statistics are kept only for a while."""
    rows = select_in(
        group.connection,
        f"UPDATE functions SET unused_since = {float(group.now)} WHERE unused_since IS NULL"
        f" AND {_NOT_CALLED} AND function IN ({{rows}}) RETURNING function",
        functions,
    )
    return len(list(rows))


def _forget_functions(memory: Memory, group: Group, functions: Sequence[int]) -> int:
    gone = _delete(
        group,
        "functions",
        "function",
        functions,
        f"unused_since IS NOT NULL AND {_NOT_CALLED}",
        "function, owner, distribution, name",
    )
    numbers = [number for number, *_ in gone]
    for table in ("function_statistics", "function_models", "batch_totals"):
        _delete(group, table, "function", numbers, "1 = 1", "function")
    for number, *key in gone:
        memory.functions_by_number.pop(number, None)
        memory.functions.pop((key[0], key[1], key[2]), None)
    return len(gone)


def _delete(
    group: Group, table: str, column: str, numbers: Iterable[int], condition: str, gives: str
) -> list[tuple[Any, ...]]:
    template = f"DELETE FROM {table} WHERE {condition} AND {column} IN ({{rows}}) RETURNING {gives}"
    return list(select_in(group.connection, template, sorted(numbers)))
