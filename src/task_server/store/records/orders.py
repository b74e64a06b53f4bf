"""Orders: environments that workers are to have ready, and how far each worker is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
from msgspec import Struct

from task_server.store.records.sql import Rows, execute_in, fetch_in


class OrderSpec(Struct, frozen=True, kw_only=True):
    """An environment to have ready. An empty request: what is unused is to go."""

    request: str
    """Text of an environment request."""
    labels: dict[str, str] = {}
    """Of the workers that are meant; empty: all."""
    modules: tuple[str, ...] = ()
    """To import; empty: those of the packages."""
    until: float
    """Wanted no longer."""


class OrderRow(Struct, frozen=True, kw_only=True):
    """An order as it stands. Times are Unix seconds."""

    number: int
    round: int
    """Goes up whenever it is asked for again."""
    request: str
    labels: dict[str, str]
    modules: tuple[str, ...]
    asked_at: float
    until: float
    python: str
    environment: str | None
    """What tasks get that ask for the same. None: its lock is not there, or could not be made."""
    error: str | None
    """Why the lock could not be made."""
    waits_for: str | None
    """Why it could not be made yet."""


class OrderReport(Struct, frozen=True):
    """How far one worker is with one order."""

    number: int
    round: int
    state: str
    log: str


class EnvironmentRow(Struct, frozen=True):
    """A locked environment."""

    digest: str
    python: str
    created_at: float
    requests: list[str]


async def order(rows: Rows, spec: OrderSpec, *, now: float) -> None:
    """Store an order, or begin another round of the one like it."""
    await rows.execute(
        "INSERT INTO environment_orders AS o (request, labels, modules, round, asked_at, until)"
        " VALUES (?, ?, ?, 1, ?, ?)"
        " ON CONFLICT (request, labels) DO UPDATE SET modules = excluded.modules,"
        " round = o.round + 1, asked_at = excluded.asked_at, until = excluded.until",
        spec.request,
        _text(dict(sorted(spec.labels.items()))),
        _text(spec.modules),
        now,
        spec.until,
    )


async def listed(rows: Rows, now: float) -> list[OrderRow]:
    """What is wanted now, oldest first."""
    found = await rows.fetch(
        "SELECT o.number, o.round, o.request, o.labels, o.modules, o.asked_at, o.until,"
        " r.python, coalesce(f.environment, r.environment),"
        " CASE WHEN r.state = 2 AND f.environment IS NULL THEN r.error END,"
        " CASE WHEN r.state = 0 AND f.environment IS NULL THEN r.error END"
        " FROM environment_orders o LEFT JOIN environment_requests r ON r.text = o.request"
        " LEFT JOIN refreshes f ON f.request = o.request"
        " WHERE o.until > ? ORDER BY o.number",
        now,
    )
    return [
        OrderRow(
            number=number,
            round=times,
            request=request,
            labels=msgspec.json.decode(labels, type=dict[str, str]),
            modules=msgspec.json.decode(modules, type=tuple[str, ...]),
            asked_at=asked_at,
            until=until,
            python=python or "",
            environment=environment,
            error=error,
            waits_for=waits_for,
        )
        for (
            number,
            times,
            request,
            labels,
            modules,
            asked_at,
            until,
            python,
            environment,
            error,
            waits_for,
        ) in found
    ]


async def take_back(rows: Rows, environments: Collection[str]) -> int:
    """End the orders of these environments."""
    return await execute_in(
        rows,
        "DELETE FROM environment_orders WHERE request IN"
        " (SELECT text FROM environment_requests WHERE environment IN ({keys}))"
        " AND request NOT IN (SELECT request FROM refreshes)",
        environments,
    ) + await execute_in(
        rows,
        "DELETE FROM environment_orders WHERE request IN"
        " (SELECT request FROM refreshes WHERE environment IN ({keys}))",
        environments,
    )


async def note(rows: Rows, worker: str, reports: Sequence[OrderReport], *, now: float) -> None:
    """Keep what a worker tells, of the present rounds of orders that there are."""
    for report in reports:
        await rows.execute(
            "INSERT INTO environment_order_states (number, worker, round, state, log, told_at)"
            " SELECT number, ?, round, ?, ?, ? FROM environment_orders"
            " WHERE number = ? AND round = ?"
            " ON CONFLICT (number, worker) DO UPDATE SET round = excluded.round,"
            " state = excluded.state, log = excluded.log, told_at = excluded.told_at",
            worker,
            report.state,
            report.log,
            now,
            report.number,
            report.round,
        )


async def reports(rows: Rows, numbers: Collection[int]) -> list[tuple[str, OrderReport]]:
    """What workers told of these orders last."""
    found = await fetch_in(
        rows,
        "SELECT worker, number, round, state, log FROM environment_order_states"
        " WHERE number IN ({keys})",
        numbers,
    )
    return [(worker, OrderReport(*report)) for worker, *report in found]


async def environments(rows: Rows, limit: int) -> list[EnvironmentRow]:
    """Locked environments, newest first."""
    found = await rows.fetch(
        "SELECT environment, python, created_at FROM environments"
        " ORDER BY created_at DESC, environment LIMIT ?",
        limit,
    )
    requests: dict[str, list[str]] = {digest: [] for digest, _, _ in found}
    for text, environment in await rows.fetch(
        "SELECT text, environment FROM environment_requests WHERE environment IS NOT NULL"
        " UNION SELECT request, environment FROM refreshes ORDER BY text"
    ):
        if environment in requests:
            requests[environment].append(text)
    return [
        EnvironmentRow(digest, python, created_at, requests[digest])
        for digest, python, created_at in found
    ]


async def forget(rows: Rows, *, now: float) -> int:
    """Remove orders whose time is over, and what was told of orders that are no more."""
    return await rows.execute(
        "DELETE FROM environment_orders WHERE until <= ?", now
    ) + await rows.execute(
        "DELETE FROM environment_order_states WHERE"
        " number NOT IN (SELECT number FROM environment_orders)"
        " OR worker NOT IN (SELECT id FROM workers)"
    )


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()
