"""What must be true of the rows between transactions, and where it is not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from task_server.protocol.ids import to_text
from task_server.store.records.sql import Rows
from task_server.store.states import Encoding, State

_TASK = "SELECT t.number, t.id FROM tasks t"
_ENDED = int(State.SUCCEEDED)
_BLOB_IN_CALL = re.compile(rb'"call":\{"encoding":"[a-z]+","blob":"(sha256:[0-9a-f]{64})"')

CHECKS = {
    "a task has a state that does not exist": f"""
        {_TASK} WHERE t.state NOT BETWEEN 0 AND 6""",
    "a task names a kind, a lane or a batch that is not there": f"""
        {_TASK} LEFT JOIN kinds k ON k.kind = t.kind LEFT JOIN lanes l ON l.lane = t.lane
        LEFT JOIN batches b ON b.batch = t.batch
        WHERE k.kind IS NULL OR l.lane IS NULL OR (t.batch IS NOT NULL AND b.batch IS NULL)""",
    "a task waits in another lane than its kind's": f"""
        {_TASK} JOIN kinds k ON k.kind = t.kind WHERE t.state = 0 AND t.lane != k.lane""",
    "a task runs without a session or a lease": f"""
        {_TASK} LEFT JOIN sessions s ON s.session = t.session WHERE t.state = 2 AND (
          s.session IS NULL OR t.secret IS NULL OR length(t.secret) != 16 OR t.reply IS NULL
          OR t.started_at IS NULL OR t.attempt < 1)""",
    "a task waits with a lease": f"""
        {_TASK} WHERE t.state IN (0, 1) AND t.secret IS NOT NULL""",
    "a delayed task waits for nothing, or another task waits": f"""
        {_TASK} LEFT JOIN task_extras x ON x.number = t.number
        WHERE (t.state = 1) != (x.delayed_until IS NOT NULL OR coalesce(x.pending, 0) > 0)
          OR (x.delayed_until IS NOT NULL AND x.pending > 0)""",
    "a task does not wait for what its dependencies say": f"""
        {_TASK} LEFT JOIN task_extras x ON x.number = t.number
        LEFT JOIN dependencies d ON d.task = t.number
        GROUP BY t.number, t.id, x.pending HAVING coalesce(x.pending, 0) != count(d.after)""",
    "a plain worker's lease has no end, or something else has one": f"""
        {_TASK} LEFT JOIN task_extras x ON x.number = t.number
        LEFT JOIN sessions s ON s.session = t.session
        WHERE (t.state = 2 AND coalesce(s.is_plain, 0) = 1) != (x.leased_until IS NOT NULL)""",
    "a task has ended without a place or a time, or has one without an end": f"""
        {_TASK} WHERE t.state BETWEEN 0 AND 6
          AND ((t.n IS NULL) != (t.state < {_ENDED})
            OR (t.ended_at IS NULL) != (t.state < {_ENDED}))""",
    "two tasks have one place among the finished": f"""
        {_TASK} JOIN (SELECT server, n FROM tasks WHERE n IS NOT NULL
          GROUP BY server, n HAVING count(*) > 1) twice ON twice.server = t.server
          AND twice.n = t.n""",
    # A task may be cancelled with an error that says why; 5 stands for what is no longer kept.
    "a task succeeded or failed without an outcome, or has one without that": f"""
        {_TASK} LEFT JOIN payloads p ON p.number = t.number AND p.part = 1
        WHERE (t.state IN (3, 4) AND t.encoding IS NULL) OR t.encoding NOT BETWEEN 0 AND 5
          OR (t.state NOT IN (3, 4) AND t.encoding BETWEEN 0 AND 4
            AND NOT (t.state = 5 AND t.encoding = 4))
          OR (t.encoding BETWEEN 0 AND 4 AND t.outcome IS NULL AND p.number IS NULL)""",
    "a task has an outcome that should be gone": f"""
        {_TASK} WHERE t.encoding = 5 AND (t.payload IS NOT NULL OR t.outcome IS NOT NULL
          OR EXISTS (SELECT 1 FROM payloads p WHERE p.number = t.number))""",
    "a task waits or runs without its arguments": f"""
        {_TASK} LEFT JOIN payloads p ON p.number = t.number AND p.part = 0
        WHERE t.state < {_ENDED} AND t.payload IS NULL AND p.number IS NULL""",
    "two tasks have one position in a batch": f"""
        {_TASK} JOIN (SELECT batch, position FROM tasks WHERE batch IS NOT NULL
          GROUP BY batch, position HAVING count(*) > 1) twice ON twice.batch = t.batch
          AND twice.position = t.position""",
    # Tasks past their retention are gone from the table, and stay in the counts.
    "a batch's counts are not those of its tasks": """
        SELECT b.batch, b.id FROM batch_progress b LEFT JOIN tasks t ON t.batch = b.batch
        GROUP BY b.batch, b.id, b.total, b.succeeded, b.failed, b.cancelled, b.expired, b.purged
        HAVING b.total - b.succeeded - b.failed - b.cancelled - b.expired
            != count(CASE WHEN t.state < 3 THEN 1 END)
          OR b.succeeded < count(CASE WHEN t.state = 3 THEN 1 END)
          OR b.failed < count(CASE WHEN t.state = 4 THEN 1 END)
          OR b.cancelled < count(CASE WHEN t.state = 5 THEN 1 END)
          OR b.expired < count(CASE WHEN t.state = 6 THEN 1 END)
          OR b.total - b.purged != count(CASE WHEN t.encoding = 5 THEN NULL ELSE t.number END)""",
    "the count of what waits is not that of the tasks": """
        SELECT kind, sum(n) FROM (
          SELECT kind, count(*) AS n FROM tasks WHERE state IN (0, 1) GROUP BY kind
          UNION ALL SELECT kind, -queued FROM kind_load
        ) counts GROUP BY kind HAVING sum(n) != 0""",
    "the count of a kind's tasks is not that of the tasks": """
        SELECT kind, sum(n) FROM (
          SELECT kind, count(*) AS n FROM tasks GROUP BY kind
          UNION ALL SELECT kind, -stored FROM kind_load
        ) counts GROUP BY kind HAVING sum(n) != 0""",
    "a function has fewer calls than tasks that succeeded": """
        SELECT f.function, f.calls FROM
          (SELECT function, sum(calls) AS calls FROM function_statistics GROUP BY function) f
        JOIN (SELECT k.function, count(*) AS ended FROM tasks t JOIN kinds k ON k.kind = t.kind
          WHERE t.state = 3 GROUP BY k.function) t ON t.function = f.function
        WHERE f.calls < t.ended""",
    "arguments or an outcome without a task": """
        SELECT p.number, p.part FROM payloads p LEFT JOIN tasks t ON t.number = p.number
        WHERE t.number IS NULL""",
    "an outcome of an earlier generation without a task": """
        SELECT p.number, p.generation FROM past_outcomes p LEFT JOIN tasks t ON t.number = p.number
        WHERE t.number IS NULL""",
    "a log without a task": """
        SELECT l.number, l.attempt FROM logs l LEFT JOIN tasks t ON t.number = l.number
        WHERE t.number IS NULL""",
    "times or counts without a task": """
        SELECT x.number, x.generation FROM task_extras x LEFT JOIN tasks t ON t.number = x.number
        WHERE t.number IS NULL""",
    "an attempt without a task": """
        SELECT p.task, p.attempt FROM past_attempts p LEFT JOIN tasks t ON t.number = p.task
        WHERE t.number IS NULL""",
    "a dependency without a task": """
        SELECT d.task, d.after FROM dependencies d LEFT JOIN tasks t ON t.number = d.task
        WHERE t.number IS NULL""",
    "a use of a blob without a task": """
        SELECT u.number, u.digest FROM blob_uses u LEFT JOIN tasks t ON t.number = u.number
        WHERE t.number IS NULL""",
}
"""Each query finds what contradicts its name: a number, and where it is a task's or a batch's, its
id. They hold on both databases, whatever has been purged."""


class Finding(Struct, frozen=True):
    """Something that must not be."""

    what: str
    count: int
    example: str
    """One of them: the id of a task or batch, or a row's number."""


async def fault(rows: Rows, what: str) -> Finding | None:
    """Where one of CHECKS does not hold."""
    found = await rows.fetch(f"SELECT f.*, count(*) OVER () FROM ({CHECKS[what]}) f LIMIT 1")
    if not found:
        return None
    number, identifier, count = found[0]
    is_id = isinstance(identifier, bytes) and len(identifier) == 16
    return Finding(what, count, to_text(identifier) if is_id else f"number {number}")


async def wheels(rows: Rows) -> set[str]:
    """The blobs of uploaded wheels."""
    return {name for (name,) in await rows.fetch("SELECT DISTINCT digest FROM packages")}


async def needed_blobs(rows: Rows) -> set[str]:
    """The blobs that tasks cannot do without: arguments and functions of those that have not ended,
    answers of those that have."""
    payloads = await rows.fetch(
        "SELECT payload FROM tasks WHERE state < ? AND substr(payload, 1, 6) = ?",
        _ENDED,
        b'"call"',
    )
    calls = (_BLOB_IN_CALL.match(payload) for (payload,) in payloads)
    pickles = await rows.fetch(
        "SELECT DISTINCT pickle FROM kinds WHERE pickle IS NOT NULL"
        " AND kind IN (SELECT kind FROM tasks WHERE state < ?)",
        _ENDED,
    )
    answers = await rows.fetch(
        "SELECT outcome FROM tasks WHERE encoding IN (?, ?) AND outcome IS NOT NULL",
        int(Encoding.JSON_BLOB),
        int(Encoding.PICKLE_BLOB),
    )
    return {
        *(call[1].decode() for call in calls if call is not None),
        *(name for (name,) in pickles),
        *(name.decode() for (name,) in answers),
    }


def missing(names: Iterable[str], folder: Path) -> list[Finding]:
    """Which of these blobs are not in the folder, told as one."""
    gone = sorted(name for name in names if blob_path(folder, name) is None)
    return [Finding("a blob is missing", len(gone), gone[0])] if gone else []


def blob_path(folder: Path, name: str) -> Path | None:
    """The file of the blob `sha256:HEX`; None when it is not in the folder."""
    digest = name.removeprefix("sha256:")
    path = folder / digest[:2] / digest
    return path if path.is_file() else None
