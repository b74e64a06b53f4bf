"""What the estimator has learned, as it is kept: a row for each function, and one for all."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct

from task_server.store.records.sql import Rows, execute_in, first

_SHARED = 0
"""In the place of a function's number: what all functions share, and how far was learned."""


class FunctionModel(Struct, frozen=True):
    """What was learned of one function."""

    function: int
    key: tuple[int, str, str]
    """Owner (0: by name), distribution, name."""
    state: bytes


class ModelHead(Struct, frozen=True):
    """Which model this is: the rest of it has versions up to this one."""

    version: int
    """Goes up whenever it is kept."""
    trained_to: dict[int, int]
    """Server -> place of the last task that it has learned from."""
    shared: bytes
    """What all functions share."""


class ModelChange(Struct, frozen=True):
    """What was learned since the version before."""

    head: ModelHead
    functions: Sequence[tuple[int, bytes]]
    """Those with news: number and state."""
    gone: Sequence[int]
    """Those that are no longer remembered."""


async def version(rows: Rows) -> int:
    """Of the model that is kept; 0: there is none."""
    row = await first(rows, "SELECT version FROM function_models WHERE function = ?", _SHARED)
    return 0 if row is None else int(row[0])


async def head(rows: Rows) -> ModelHead | None:
    """The newest model's head; None: there is no model."""
    row = await first(
        rows,
        "SELECT version, trained_to, state FROM function_models WHERE function = ?",
        _SHARED,
    )
    if row is None:
        return None
    trained_to = msgspec.msgpack.decode(row[1], type=dict[int, int])
    return ModelHead(int(row[0]), trained_to, row[2])


async def functions(rows: Rows, *, since: int, after: int, limit: int) -> list[FunctionModel]:
    """Models of functions that changed after version `since`, by number beyond `after`."""
    found = await rows.fetch(
        "SELECT m.function, f.owner, f.distribution, f.name, m.state"
        " FROM function_models m JOIN functions f USING (function)"
        " WHERE m.function > ? AND CAST(m.version AS bigint) > ? ORDER BY m.function LIMIT ?",
        max(after, _SHARED),
        since,
        limit,
    )
    return [FunctionModel(number, (*key,), state) for number, *key, state in found]


async def keep(rows: Rows, change: ModelChange) -> bool:
    """Keep what was learned after the version before; False: another server kept that already."""
    if not await _keep_head(rows, change.head):
        return False
    for number, state in change.functions:
        await rows.execute(
            "INSERT INTO function_models (function, version, state)"
            # One that nobody needs any more may have gone meanwhile.
            " SELECT function, ?, ? FROM functions WHERE function = ?"
            " ON CONFLICT (function) DO UPDATE"
            " SET version = excluded.version, state = excluded.state",
            str(change.head.version),
            state,
            number,
        )
    await execute_in(
        rows, "DELETE FROM function_models WHERE function IN ({keys})", sorted(change.gone)
    )
    return True


async def _keep_head(rows: Rows, new: ModelHead) -> bool:
    values = (str(new.version), new.shared, msgspec.msgpack.encode(new.trained_to))
    if new.version == 1:
        changed = await rows.execute(
            "INSERT INTO function_models (version, state, trained_to, function)"
            " VALUES (?, ?, ?, ?) ON CONFLICT (function) DO NOTHING",
            *values,
            _SHARED,
        )
    else:
        changed = await rows.execute(
            "UPDATE function_models SET version = ?, state = ?, trained_to = ?"
            # Only on top of what it was learned from: two leaders would mix what they know.
            " WHERE function = ? AND version = ?",
            *values,
            _SHARED,
            str(new.version - 1),
        )
    return changed == 1
