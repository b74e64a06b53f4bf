"""What must be true of the tables of any store: each query finds what is wrong."""

EXACT = {
    "a function's calls are miscounted": """
        SELECT f.function, f.calls, count(t.number)
        FROM (SELECT function, sum(calls) AS calls FROM function_statistics GROUP BY function) f
        JOIN kinds k ON k.function = f.function
        LEFT JOIN tasks t ON t.kind = k.kind AND t.state = 3
        GROUP BY f.function, f.calls HAVING f.calls != count(t.number)""",
}
"""Besides, while no task was purged."""

CHECKS = {
    "load is not what waits": """
        SELECT kind, sum(n) FROM (
          SELECT kind, count(*) AS n FROM tasks WHERE state IN (0, 1) GROUP BY kind
          UNION ALL SELECT kind, -queued FROM kind_load
        ) AS both_counts GROUP BY kind HAVING sum(n) != 0""",
    "a batch is miscounted": """
        SELECT b.batch, b.total, b.succeeded, b.failed, b.cancelled, b.expired
        FROM batch_progress b LEFT JOIN tasks t ON t.batch = b.batch
        GROUP BY b.batch, b.total, b.succeeded, b.failed, b.cancelled, b.expired, b.purged
        HAVING b.total != count(t.number) + b.purged - count(CASE WHEN t.encoding = 5 THEN 1 END)
          OR b.total - b.succeeded - b.failed - b.cancelled - b.expired
            != count(CASE WHEN t.state < 3 THEN 1 END)
          OR b.succeeded < count(CASE WHEN t.state = 3 THEN 1 END)
          OR b.failed < count(CASE WHEN t.state = 4 THEN 1 END)
          OR b.cancelled < count(CASE WHEN t.state = 5 THEN 1 END)
          OR b.expired < count(CASE WHEN t.state = 6 THEN 1 END)
          OR b.succeeded + b.failed + b.cancelled + b.expired
            != count(CASE WHEN t.state > 2 THEN 1 END)
              + b.purged - count(CASE WHEN t.encoding = 5 THEN 1 END)""",
    "a task has ended without a place, or has one without an end": """
        SELECT number FROM tasks
        WHERE (n IS NULL) != (state < 3) OR (ended_at IS NULL) != (state < 3)""",
    "two tasks have one place": """
        SELECT server, n FROM tasks WHERE n > 0 GROUP BY server, n HAVING count(*) > 1""",
    "a position is missing": """
        SELECT t.batch FROM tasks t JOIN batches b ON b.batch = t.batch GROUP BY t.batch, b.total
        HAVING count(DISTINCT t.position) != count(*) OR max(t.position) >= b.total""",
    "a task runs without a lease, or waits with one": """
        SELECT number FROM tasks WHERE (state = 2) != (secret IS NOT NULL) AND state < 3
          OR state = 2 AND (session IS NULL OR reply IS NULL OR started_at IS NULL)""",
    "a delayed task waits for nothing, or another task waits": """
        SELECT t.number FROM tasks t LEFT JOIN task_extras x ON x.number = t.number
        WHERE (t.state = 1) != (x.delayed_until IS NOT NULL OR coalesce(x.pending, 0) > 0)
          OR x.delayed_until IS NOT NULL AND x.pending > 0""",
    "a task does not wait for what its dependencies say": """
        SELECT t.number FROM tasks t LEFT JOIN task_extras x ON x.number = t.number
        LEFT JOIN dependencies d ON d.task = t.number
        GROUP BY t.number, x.pending HAVING coalesce(x.pending, 0) != count(d.after)""",
    "a dependency of a task that is not there": """
        SELECT d.task FROM dependencies d LEFT JOIN tasks t ON t.number = d.task
        WHERE t.number IS NULL""",
    "something is left of a task that is not there": """
        SELECT number FROM payloads WHERE number NOT IN (SELECT number FROM tasks)
        UNION ALL SELECT number FROM logs WHERE number NOT IN (SELECT number FROM tasks)
        UNION ALL SELECT number FROM task_extras WHERE number NOT IN (SELECT number FROM tasks)
        UNION ALL SELECT number FROM past_outcomes WHERE number NOT IN (SELECT number FROM tasks)
        UNION ALL SELECT number FROM blob_uses WHERE number NOT IN (SELECT number FROM tasks)
        UNION ALL SELECT task FROM past_attempts WHERE task NOT IN (SELECT number FROM tasks)""",
    "a plain lease has no end, or something else has one": """
        SELECT t.number FROM tasks t LEFT JOIN task_extras x ON x.number = t.number
        LEFT JOIN sessions s ON s.session = t.session
        WHERE (t.state = 2 AND s.is_plain = 1) != (x.leased_until IS NOT NULL)""",
    "success without an answer, or the reverse": """
        SELECT number FROM tasks WHERE state = 3 AND encoding IS NULL
          OR state NOT IN (3, 4) AND encoding IS NOT NULL AND encoding != 5
            AND NOT (state = 5 AND encoding = 4)""",
    "payloads that are purged are there still": """
        SELECT t.number FROM tasks t LEFT JOIN payloads p ON p.number = t.number
        WHERE t.encoding = 5
          AND (t.payload IS NOT NULL OR t.outcome IS NOT NULL OR p.number IS NOT NULL)""",
}
