"""Rows that never change, or once: read when first met, and made before the group that needs them.

They are made outside the group's transaction: a group that is undone must not leave numbers in
memory of rows that do not exist.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from task_server.scheduling.requires import requires_of
from task_server.store.kinds import FunctionKey, Kind, KindSpec
from task_server.store.postgres.memory import LOCKED, TO_LOCK, LaneFacts, Memory, Request

_KINDS = """
SELECT k.kind, k.function, k.lane, k.spec, f.owner, f.distribution, f.name,
       l.lane, l.owner, l.priority, l.python, l.plain, l.sandbox, l.request, l.requires,
       r.request, r.text, r.python, r.environment, r.state
  FROM kinds k
  JOIN functions f ON f.function = k.function
  JOIN lanes l ON l.lane = k.lane
  JOIN environment_requests r ON r.request = l.request
 WHERE k."""
_LANES = """
SELECT l.lane, l.owner, l.priority, l.python, l.plain, l.sandbox, l.request, l.requires,
       r.request, r.text, r.python, r.environment, r.state
  FROM lanes l JOIN environment_requests r ON r.request = l.request
 WHERE l.lane = ANY($1::int[])"""
_REQUESTS = """
SELECT request, text, python, environment, state FROM environment_requests WHERE """
_FUNCTIONS = "SELECT function, owner, distribution, name FROM functions WHERE "

# Sorted: two servers that make the same rows at once meet in the same order.
_MAKE_REQUESTS = """
INSERT INTO environment_requests (text, python, environment, state)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[]) ORDER BY 1
ON CONFLICT (text) DO NOTHING"""
_MAKE_FUNCTIONS = """
INSERT INTO functions (owner, distribution, name)
SELECT * FROM unnest($1::int[], $2::text[], $3::text[]) ORDER BY 1, 2, 3
ON CONFLICT (owner, distribution, name) DO NOTHING"""
_MAKE_LANES = """
INSERT INTO lanes (owner, priority, requires, sandbox, python, plain, request, limit_keys)
SELECT w.owner, w.priority, w.requires, w.sandbox, w.python, w.plain, w.request, ''
  FROM unnest($1::int[], $2::int[], $3::text[], $4::int[], $5::text[], $6::int[], $7::int[])
    AS w(owner, priority, requires, sandbox, python, plain, request)
 ORDER BY w.owner, w.priority, w.requires, w.sandbox, w.python, w.plain, w.request
ON CONFLICT (owner, priority, requires, sandbox, python, plain, request, limit_keys) DO NOTHING"""
_LANES_LIKE = """
SELECT lane, owner, priority, python, plain, sandbox, request, requires FROM lanes
 WHERE owner = ANY($1::int[]) AND requires = ANY($2::text[]) AND limit_keys = ''"""
_MAKE_KINDS = """
INSERT INTO kinds (digest, owner, function, lane, spec, keep, pickle)
SELECT * FROM unnest($1::bytea[], $2::int[], $3::int[], $4::int[], $5::bytea[], $6::float8[],
                     $7::text[])
 ORDER BY 1
ON CONFLICT (digest) DO NOTHING"""
_USE_KINDS = """
UPDATE kinds SET unused_since = NULL
 WHERE digest = ANY($1::bytea[]) AND unused_since IS NOT NULL"""
_USE_FUNCTIONS = """
UPDATE functions SET unused_since = NULL
 WHERE function = ANY($1::int[]) AND unused_since IS NOT NULL"""

Row = Sequence[Any]


# ---- reading


async def know_kinds(connection: Any, memory: Memory, numbers: Iterable[int]) -> None:
    """Have these kinds in memory, with what they name."""
    missing = {number for number in numbers if number not in memory.kinds}
    if missing:
        rows = await connection.fetch(f"{_KINDS}kind = ANY($1::int[])", list(missing))
        _remember_kinds(memory, rows)


async def know_lanes(connection: Any, memory: Memory, numbers: Iterable[int]) -> None:
    """Have these lanes in memory."""
    missing = [number for number in numbers if number not in memory.lanes]
    if missing:
        for row in await connection.fetch(_LANES, missing):
            _remember_lane(memory, row[:8])
            _remember_request(memory, row[8:])


async def know_new_functions(connection: Any, memory: Memory) -> None:
    """Have all functions in memory."""
    last = max(memory.function_keys, default=0)
    for row in await connection.fetch(f"{_FUNCTIONS}function > $1", last):
        memory.remember_function(row[0], (row[1], row[2], row[3]))


async def know_open_requests(connection: Any, memory: Memory) -> None:
    """Have all environment requests in memory, and those that were open as they are now."""
    last = max(memory.requests_by_number, default=0)
    is_open = [r.number for r in memory.requests.values() if r.state != LOCKED]
    rows = await connection.fetch(
        f"{_REQUESTS}request > $1 OR request = ANY($2::int[])", last, is_open
    )
    for row in rows:
        _remember_request(memory, row)


def _remember_kinds(memory: Memory, rows: Iterable[Row]) -> None:
    for row in rows:
        memory.remember_function(row[1], (row[4], row[5], row[6]))
        _remember_lane(memory, row[7:15])
        _remember_request(memory, row[15:])
        memory.remember_kind(Kind.read(row[0], row[1], row[2], row[3]))


def _remember_lane(memory: Memory, row: Row) -> None:
    lane, owner, priority, python, plain, sandbox, request, required = row
    if lane not in memory.lanes:
        facts = (python, bool(plain), sandbox, request, requires_of(required))
        memory.remember_lane(LaneFacts(lane, owner, priority, *facts))


def _remember_request(memory: Memory, row: Row) -> None:
    memory.remember_request(Request(*row))


# ---- making


async def make_kinds(connection: Any, memory: Memory, specs: Iterable[KindSpec]) -> None:
    """Have the kinds of these specs stored and in memory."""
    missing = {spec for spec in specs if spec not in memory.kinds_by_spec}
    if not missing:
        return
    digests = {_digest(spec): spec for spec in missing}
    await _find_kinds(connection, memory, digests)
    missing = {spec for spec in missing if spec not in memory.kinds_by_spec}
    if not missing:
        return
    await _make_requests(connection, memory, missing)
    functions = await _make_functions(connection, memory, {spec.function_key for spec in missing})
    await _make_lanes(connection, memory, missing)
    rows = [
        (
            _digest(spec),
            spec.owner,
            functions[spec.function_key],
            memory.lanes_by_key[_lane_key(memory, spec)],
            msgspec.msgpack.encode(spec),
            spec.keep,
            spec.pickle,
        )
        for spec in missing
    ]
    await connection.execute(_MAKE_KINDS, *columns(rows))
    await connection.execute(_USE_FUNCTIONS, list(functions.values()))
    await _find_kinds(connection, memory, digests)


def columns(rows: Sequence[Row], *, width: int = 0) -> list[list[Any]]:
    """Rows as the arrays that `unnest` takes; `width`: how many where there may be no rows."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


def _digest(spec: KindSpec) -> bytes:
    return blake2b(msgspec.msgpack.encode(spec), digest_size=16).digest()


def _lane_key(memory: Memory, spec: KindSpec) -> tuple[object, ...]:
    request = memory.requests[spec.request].number
    facts = (spec.sandbox, spec.python, spec.plain, request)
    return (spec.owner, spec.priority, spec.requires, *facts)


async def _find_kinds(connection: Any, memory: Memory, digests: Collection[bytes]) -> None:
    # Before they are read: one that is found is used again, and does not go.
    await connection.execute(_USE_KINDS, list(digests))
    rows = await connection.fetch(f"{_KINDS}digest = ANY($1::bytea[])", list(digests))
    _remember_kinds(memory, rows)


async def _make_requests(connection: Any, memory: Memory, specs: Iterable[KindSpec]) -> None:
    missing = {spec.request: spec for spec in specs if spec.request not in memory.requests}
    if not missing:
        return
    rows = [
        (text, spec.python, spec.environment, TO_LOCK if spec.environment is None else LOCKED)
        for text, spec in missing.items()
    ]
    await connection.execute(_MAKE_REQUESTS, *columns(rows))
    for row in await connection.fetch(f"{_REQUESTS}text = ANY($1::text[])", list(missing)):
        _remember_request(memory, row)


async def _make_functions(
    connection: Any, memory: Memory, keys: Collection[FunctionKey]
) -> dict[FunctionKey, int]:
    missing = [key for key in keys if key not in memory.functions]
    if missing:
        await connection.execute(_MAKE_FUNCTIONS, *columns(missing))
        rows = await connection.fetch(
            f"{_FUNCTIONS}(owner, distribution, name) IN"
            " (SELECT * FROM unnest($1::int[], $2::text[], $3::text[]))",
            *columns(missing),
        )
        for function, *key in rows:
            memory.remember_function(function, (key[0], key[1], key[2]))
    return {key: memory.functions[key].function for key in keys}


async def _make_lanes(connection: Any, memory: Memory, specs: Iterable[KindSpec]) -> None:
    keys = {_lane_key(memory, spec) for spec in specs}
    missing = [key for key in keys if key not in memory.lanes_by_key]
    if not missing:
        return
    rows = [
        (owner, priority, required, sandbox, python, int(bool(plain)), request)
        for owner, priority, required, sandbox, python, plain, request in missing
    ]
    await connection.execute(_MAKE_LANES, *columns(rows))
    owners, required = list({row[0] for row in rows}), list({row[2] for row in rows})
    for row in await connection.fetch(_LANES_LIKE, owners, required):
        _remember_lane(memory, row)
