"""No statement of a verb walks a table that grows, whatever the planner knows of the tables.

A server may begin on empty tables, and keeps its plans for as long as its connection lasts.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import task_server.store.postgres
from task_server.store.postgres.connection import Connection, connect, numbered

GROWING = {
    "batch_counts",
    "batches",
    "blob_uses",
    "dependencies",
    "logs",
    "past_attempts",
    "payloads",
    "sessions",
    "stops",
    "submit_keys",
    "task_extras",
    "tasks",
    "tombstones",
}
BY_READERS = {"following", "loading", "snapshots"}
"""Modules whose statements are planned by what is known of the tables."""
RARE = {
    ("clock", "_SESSIONS"): "the clock was set, or a server begins",
    ("clock", "_AHEAD"): "the same",
    ("clock", "_BACK"): "the same",
    ("clock", "_PLAIN_BACK"): "the same",
    ("clock", "_LATEST"): "the same",
    ("sweep", "_FORGET"): "of the sessions that are live",
    ("sweep", "_SEEN"): "the same",
    ("lease", "_IN_FLIGHT"): "of what runs, when an owner comes back beside others",
    ("sweep", "_OF_REQUEST"): "of the tasks that are delayed, when a lock fails for good",
}
"""What may walk, and when."""
FILL = """
INSERT INTO tasks (id, kind, lane, state, n, server, ended_at, submitted_at, ready_at, due_at,
                   predicted, predicted_high, session, secret, reply, attempt)
SELECT decode(lpad(to_hex(i), 32, '0'), 'hex'), 1, 1, 3, i, 1, i, i, i, i, 1, 1, i % 50,
       '\\x00', 1, 1
  FROM generate_series(1, 5000) AS i;
INSERT INTO task_extras (number, errors) SELECT number, 1 FROM tasks WHERE number % 10 = 0;
INSERT INTO sessions (id, worker, is_plain, alive_until, number, seen, is_over)
SELECT 's' || i, i, 0, 0, 1, 1, 1 FROM generate_series(1, 5000) AS i;"""
STATES = {
    "new": "SELECT 1",
    "full": f"{FILL} ANALYZE",
    "grown": f"ANALYZE; {FILL}",
}
"""What was done to the tables before the statements are planned."""


def statements() -> Iterator[tuple[str, str, str]]:
    """Module, name and text of each whole statement."""
    package = task_server.store.postgres
    for found in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{found.name}")
        for name, text in vars(module).items():
            if isinstance(text, str) and re.fullmatch("_?[A-Z][A-Z_]+", name) and is_whole(text):
                yield found.name, name, text


def is_whole(text: str) -> bool:
    code = re.sub(r"--[^\n]*", "", text).strip()
    is_open = code.endswith(("WHERE", "k.", "=")) or "{}" in code
    return not is_open and re.match(r"(SELECT|INSERT|UPDATE|DELETE|WITH)\s", code) is not None


@pytest.fixture(params=STATES.values(), ids=list(STATES))
async def connection(request: pytest.FixtureRequest, database: str) -> AsyncIterator[Connection]:
    """One with the planner of the verbs."""
    connection = await connect(database)
    await connection.execute(request.param)
    yield connection
    await connection.close()


async def plan_of(connection: Connection, text: str, name: str) -> dict[str, Any]:
    sql = numbered(text)
    count = max((int(each) for each in re.findall(r"\$(\d+)", sql)), default=0)
    await connection.execute(f"PREPARE {name} AS {sql}")
    values = f"({', '.join(['NULL'] * count)})" if count else ""
    found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE {name}{values}")
    plan: dict[str, Any] = json.loads(found)[0]["Plan"]
    return plan


def walks(node: dict[str, Any]) -> Iterator[str]:
    """Scans of growing tables that no condition on an index bounds."""
    is_scan = node["Node Type"].endswith("Scan") and node["Node Type"] != "Tid Scan"
    if is_scan and node.get("Relation Name") in GROWING and "Index Cond" not in node:
        yield f"{node['Node Type']} of {node['Relation Name']} by {node.get('Index Name')}"
    for child in node.get("Plans", ()):
        yield from walks(child)


async def test_no_statement_walks_a_table(connection: Connection) -> None:
    found = []
    seen = 0
    for module, name, text in statements():
        if module in BY_READERS or (module, name) in RARE:
            continue
        seen += 1
        plan = await plan_of(connection, text, f"plan_{seen}")
        found += [f"{module}.{name}: {walk}" for walk in walks(plan)]

    assert not found, "\n".join(found)
    assert seen > 80


async def test_tasks_are_looked_at_in_the_order_of_their_index(connection: Connection) -> None:
    from task_server.store.postgres.look import _LOOK

    plan = json.dumps(await plan_of(connection, _LOOK, "look"))

    assert '"Index Name": "tasks_ready"' in plan and '"Node Type": "Sort"' not in plan
