"""Guards of what is kept and what goes: retention, deleting, `after`, blobs, the budget."""

from tests.mutations.guards import Guard

RETENTION = "tests/store/test_retention.py -k 'not postgres'"
AFTER = "tests/store/test_after.py tests/store/sqlite/test_dependencies.py -k 'not postgres'"
BLOBS = "tests/store/test_blob_uses.py -k 'not postgres'"
HISTORY = "tests/store/test_history.py tests/store/test_retention.py -k 'not postgres'"
REFRESHED = "tests/store/test_packages.py -k 'refreshed and not postgres'"
FORGET = "tests/store/sqlite/test_forget.py"
SERVER = "tests/server/test_retention.py"
BUDGET = "tests/server/test_budget.py"
COLLECT = "tests/server/test_collect.py"
HTTP_AFTER = "tests/server/test_after.py"


def _record(name: str, text: str, without: str = "") -> Guard:
    return Guard("store/records/retention.py", name, text, without, RETENTION)


def _leftover(name: str, text: str, without: str = "") -> Guard:
    return Guard("store/records/leftovers.py", name, text, without, RETENTION)


def _refreshed(name: str, text: str, without: str = "") -> Guard:
    return Guard("store/records/leftovers.py", name, text, without, REFRESHED)


def _blob(name: str, text: str, without: str = "") -> Guard:
    return Guard("store/records/blobs.py", name, text, without, BLOBS)


def _after(file: str, name: str, text: str, without: str = "") -> Guard:
    return Guard(file, name, text, without, AFTER)


GUARDS = [
    # ---- retention
    _record(
        "an id is free again before its day is over",
        "    bound = oldest_id(now - keep.shortest)\n",
        "    bound = oldest_id(now + 1e9)\n",
    ),
    _record("the shortest retention is less than a day", "return max(DAY, min(", "return (min("),
    _record(
        "what was retried since it was found is purged",
        '    due = f"{_NOT_AWAITED} AND {_may_go(keep, _OWN)}"\n',
        '    due = f"{_NOT_AWAITED} AND ? > 0 AND ? IS NOT NULL"\n',
    ),
    _record("a second read is the first", " WHERE first_read IS NULL AND n IS", " WHERE n IS"),
    _record(
        "a read of the last generation counts",
        "IS NULL AND n IS NOT NULL AND number",
        "IS NULL AND number",
    ),
    _record(
        "what is kept until read goes at once", "first_read + {AGAIN_SECONDS}", "first_read + 0"
    ),
    _record("a task's own keep is not looked for", ", *([] if own is None else [own])]", "]"),
    _record(
        "a pass never ends before the newest",
        "is_last = last is None or last[1] > at.youngest",
        "is_last = last is None",
    ),
    _record(
        "emptied members are counted twice",
        " for *_, batch, encoding in gone if encoding != _PURGED]",
        " for *_, batch, encoding in gone]",
    ),
    _record("what belongs to it stays", '_PARTS = ("payloads", "logs", ', '_PARTS = ("logs", '),
    _record("attempts stay", '("past_attempts", "dependencies")', '("dependencies",)'),
    _record(
        "an open task is deleted",
        "DELETE FROM tasks WHERE number = ? AND state >= {_SUCCEEDED} AND",
        "DELETE FROM tasks WHERE number = ? AND",
    ),
    _record(
        "another's task is deleted",
        '" WHERE t.id = ? AND (k.owner = ? OR ?)",\n        identifier,\n        owner,\n'
        "        owner is None,\n    )\n    if row is None:\n        return 200",
        '" WHERE t.id = ? AND (k.owner = ? OR ? OR 1)",\n        identifier,\n        owner,\n'
        "        owner is None,\n    )\n    if row is None:\n        return 200",
    ),
    _record(
        "a deleted task leaves no tombstone",
        "    await _remove_parts(rows, [number])\n    await _count_gone",
        '    await rows.execute("DELETE FROM tombstones")\n    await _count_gone',
    ),
    Guard(
        "store/records/retention.py",
        "what others wait for still is deleted or purged",
        '_NOT_AWAITED = "NOT EXISTS',
        '_NOT_AWAITED = "1 = 1 OR NOT EXISTS',
        AFTER,
    ),
    Guard(
        "store/records/tasks.py",
        "an emptied task is shown",
        "WHERE t.id = ? AND {_KEPT} AND (k.owner",
        "WHERE t.id = ? AND (k.owner",
        RETENTION,
    ),
    Guard(
        "store/records/tasks.py",
        "an emptied task is listed",
        "    return [*where, _KEPT], values\n",
        '    return [*where, "1 = 1"], values\n',
        RETENTION,
    ),
    Guard(
        "store/records/batches.py",
        "an emptied member is streamed in order",
        "AND t.n IS NOT NULL AND {_KEPT}",
        "AND t.n IS NOT NULL",
        RETENTION,
    ),
    Guard(
        "store/records/batches.py",
        "an emptied member is streamed as ended",
        "t.n > ? AND {_KEPT}",
        "t.n > ?",
        RETENTION,
    ),
    _leftover(
        "a batch goes before its members",
        " AND NOT EXISTS (SELECT 1 FROM tasks t WHERE t.batch = b.batch) LIMIT ?",
        " LIMIT ?",
    ),
    _leftover("a young batch goes", "b.id < ? AND b.purged", "? IS NOT NULL AND b.purged"),
    _leftover(
        "an open batch goes at once",
        "(b.is_open = 0 OR b.created_at <= ?)",
        "(b.is_open = 0 OR b.created_at <= ? OR 1 = 1)",
    ),
    _leftover("keys of one moment stay for ever", 'WHERE until <= ?"\n', 'WHERE until < ?"\n'),
    _leftover(
        "a batch that was filled meanwhile goes",
        "DELETE FROM batches WHERE purged >= total AND batch",
        "DELETE FROM batches WHERE batch",
    ),
    _refreshed(
        "a refreshed lock goes before its time",
        " WHERE f.refreshed_at <= ?",
        " WHERE ? IS NOT NULL",
    ),
    _refreshed(
        "a refreshed lock goes though it is ordered",
        " AND f.request NOT IN (SELECT request FROM environment_orders)",
    ),
    _refreshed(
        "tasks go back to the lock from before a refresh",
        "r.text IN (f.request, ",
        "r.text IN ('', ",
    ),
    _refreshed(
        "a refreshed lock goes before its tasks",
        "'lock ' || f.environment)",
        "'no ' || f.environment)",
    ),
    _leftover(
        "a key goes before its task",
        "SELECT 1 FROM tasks WHERE id = substr(",
        "SELECT 1 FROM tasks WHERE id = 1 || substr(",
    ),
    _leftover("a session that holds a task goes", "WHERE t.state = 2 AND", "WHERE t.state = 9 AND"),
    _leftover("a live session goes", "WHERE s.is_over = 1 AND", "WHERE"),
    _leftover(
        "a worker goes before its session", " AND worker NOT IN (SELECT worker FROM sessions)"
    ),
    # ---- on SQLite
    Guard(
        "store/sqlite/upkeep.py",
        "numbers and places are given again",
        "    group.keep_places()\n",
        "",
        RETENTION,
    ),
    Guard(
        "store/sqlite/upkeep.py",
        "a deleted id is taken again",
        "group.memory.has_tombstones |= status == 200",
        "pass",
        RETENTION,
    ),
    Guard(
        "store/sqlite/memory.py",
        "a deleted id is taken again after a restart",
        "SELECT EXISTS (SELECT 1 FROM tombstones)",
        "SELECT 0",
        RETENTION,
    ),
    Guard(
        "store/sqlite/submit.py",
        "another's deleted id is told to be gone",
        "if any(owner != submission.owner for owner in owners):",
        "if False:",
        RETENTION,
    ),
    Guard(
        "store/sqlite/cancel.py",
        "an emptied task is cancelled",
        "    if row is None or row.is_purged:\n        return 404 if row is None else 410\n"
        "    verdict = transitions.cancel",
        "    if row is None:\n        return 404\n    verdict = transitions.cancel",
        RETENTION,
    ),
    Guard(
        "store/sqlite/cancel.py",
        "an emptied task is retried",
        "    if row is None or row.is_purged:\n        return 404 if row is None else 410\n"
        "    verdict = transitions.retry",
        "    if row is None:\n        return 404\n    verdict = transitions.retry",
        RETENTION,
    ),
    Guard(
        "store/sqlite/cancel.py",
        "a retry forgets what came before",
        "    finish_now(history.keep(SqliteRows(group.connection), row.number))\n",
        "",
        HISTORY,
    ),
    Guard(
        "store/sqlite/cancel.py",
        "a retried task counts as read",
        " first_read = NULL,",
        "",
        RETENTION,
    ),
    Guard(
        "store/records/history.py",
        "a task that is retried for ever grows for ever",
        '<="\n        " (SELECT generation FROM task_extras WHERE number = ?) - ?',
        '<="\n        " (SELECT generation FROM task_extras WHERE number = ?) - ? - 1000',
        HISTORY,
    ),
    Guard(
        "store/sqlite/finish.py",
        "a late report of an emptied task is told to be unknown",
        "    if attempt.row is not None and attempt.row.is_purged:\n        return Decided(410)\n",
        "",
        RETENTION,
    ),
    Guard(
        "store/sqlite/submit.py",
        "kinds in use are forgotten",
        "            group.stored[kind.number] += tasks\n",
        "",
        FORGET,
    ),
    Guard(
        "store/sqlite/forget.py",
        "what this group submits is forgotten",
        " if kind not in group.stored]",
        "]",
        FORGET,
    ),
    Guard(
        "store/sqlite/forget.py",
        "a forgotten kind stays in memory",
        "            memory.kinds_by_spec.pop(kind.spec, None)\n",
        "            pass\n",
        FORGET,
    ),
    Guard(
        "store/sqlite/forget.py",
        "a forgotten lane stays in memory",
        "        del memory.lanes_by_key[",
        "        memory.lanes_by_key[",
        FORGET,
    ),
    Guard(
        "store/sqlite/forget.py",
        "a forgotten request stays in memory",
        "        memory.requests.pop(text, None)\n",
        "",
        FORGET,
    ),
    Guard(
        "store/sqlite/forget.py",
        "statistics go with the tasks",
        "SELECT function FROM functions WHERE unused_since <= ? AND",
        "SELECT function FROM functions WHERE unused_since <= ? + 1e9 AND",
        FORGET,
    ),
    Guard(
        "store/sqlite/memory.py",
        "a function that is called again is forgotten",
        '            "UPDATE functions SET unused_since = NULL"\n',
        '            "UPDATE functions SET unused_since = unused_since"\n',
        "tests/store/sqlite/test_forget.py",
    ),
    Guard(
        "store/sqlite/upkeep.py",
        "nothing is left for what comes",
        "over = free - int(max(FREE_PAGES, FREE_SHARE * pages))",
        "over = free",
        FORGET,
    ),
    # ---- after
    _after(
        "store/after.py",
        "what is not there is waited for",
        "not in own and each not in there",
        "is None",
    ),
    _after("store/after.py", "tasks wait for each other", "{} if errors else _circle(new)", "{}"),
    _after(
        "store/sqlite/dependencies.py",
        "another's task is waited for",
        'f" WHERE k.owner = {int(submission.owner)} AND',
        'f" WHERE k.owner != {-int(submission.owner)} AND',
    ),
    _after(
        "store/sqlite/dependencies.py",
        "what failed before is waited for in vain",
        "                memory.unfollowed.add(number)\n",
        "                pass\n",
    ),
    _after(
        "store/sqlite/dependencies.py",
        "an end at the edge of a group is missed",
        "        left -= max(_follow_some(group, left), 1)\n        _note_ends(group)\n",
        "        _note_ends(group)\n        left -= max(_follow_some(group, left), 1)\n",
    ),
    _after(
        "store/sqlite/dependencies.py",
        "what is retried is followed for ever",
        '        f"SELECT number, id, state FROM tasks WHERE state >= {int(State.SUCCEEDED)}"\n',
        '        "SELECT number, id, state FROM tasks WHERE 1 = 1"\n',
    ),
    _after(
        "store/sqlite/dependencies.py",
        "its own time is forgotten",
        "THEN max(ifnull(run_after, 0.0), w.column3) END",
        "THEN w.column3 END",
    ),
    _after(
        "store/sqlite/dependencies.py",
        "one of several is enough",
        'CASE"\n        " WHEN pending = w.column2 THEN',
        'CASE"\n        " WHEN pending >= w.column2 THEN',
    ),
    _after(
        "store/sqlite/dependencies.py",
        "it starts only with the next sweep",
        "    make_due(group, limit=LIMIT)\n",
        "",
    ),
    _after(
        "store/sqlite/dependencies.py",
        "who waits is forgotten by a restart",
        "memory.awaited = {number for number, _ in rows}",
        "memory.awaited = set()",
    ),
    _after(
        "store/sqlite/dependencies.py",
        "what was left to follow is forgotten by a restart",
        "memory.unfollowed = {number for number, has_ended in rows if has_ended}",
        "memory.unfollowed = set()",
    ),
    _after(
        "store/sqlite/sweep.py",
        "what one group leaves is left for ever",
        " or bool(group.memory.unfollowed)",
        "",
    ),
    _after(
        "store/sqlite/sweep.py",
        "a failed lock leaves some that wait",
        "x.pending > 0 AND t.state = 1",
        "x.pending > 0 AND t.state = 9",
    ),
    _after(
        "store/sqlite/change.py",
        "a cancelled task waits on",
        '            "DELETE FROM dependencies WHERE task IN (VALUES {rows})",\n',
        '            "DELETE FROM dependencies WHERE -task IN (VALUES {rows})",\n',
    ),
    _after(
        "store/records/batches.py",
        "what waits for others is not counted as delayed",
        "    found.delayed += (",
        "    found.running += 0 * (",
    ),
    Guard(
        "server/service/submit.py",
        "a single task's error has an index",
        "    if not is_single:\n",
        "    if True:\n",
        HTTP_AFTER,
    ),
    Guard(
        "server/service/specs.py",
        "any number of tasks is waited for",
        "    if len(after) > MAXIMUM_AFTER:\n",
        "    if False:\n",
        HTTP_AFTER,
    ),
    # ---- blobs
    _blob(
        "storing it again keeps its age",
        'DO UPDATE SET created_at = excluded.created_at",',
        'DO NOTHING",',
    ),
    _blob(
        "what was stored while it was deleted counts as stored",
        "    await check_kept(rows, [name], began=now if began is None else began)\n",
    ),
    _blob(
        "a deletion that is done is no danger",
        "(is_done = 0 OR at >= ?)",
        "(is_done = 0 OR at >= ? + 1e9)",
    ),
    _blob(
        "a deletion under way is no danger", "(is_done = 0 OR at >= ?)", "(is_done = 1 AND at >= ?)"
    ),
    _blob(
        "a needed blob is forgotten",
        "        f\" AND NOT ({_IS_NEEDED.format(name='blobs.digest')}) AND digest",
        '        " AND digest',
    ),
    _blob(
        "a blob that is stored again just then is forgotten",
        "DELETE FROM blobs WHERE created_at <= ?",
        "DELETE FROM blobs WHERE ? > 0",
    ),
    _blob(
        "a blob that a function needs is forgotten",
        "FROM kinds k WHERE k.pickle =",
        "FROM kinds k WHERE -1 =",
    ),
    _blob(
        "content that somebody has is deleted",
        '            " WHERE NOT EXISTS (SELECT 1 FROM blobs WHERE digest = ?)"\n',
        '            " WHERE ? IS NOT NULL"\n',
    ),
    _blob(
        "a deletion that is under way is forgotten",
        "WHERE is_done = 1 AND at <= ?",
        "WHERE at <= ?",
    ),
    _blob("another's blob is named", "WHERE owner IN (0, ?) AND", "WHERE owner != ? - 1000 AND"),
    Guard(
        "store/sqlite/blobs.py",
        "a blob that is not there is named",
        "    if missing:\n        raise",
        "    if False:\n        raise",
        BLOBS,
    ),
    Guard(
        "store/sqlite/blobs.py",
        "naming a blob does not keep it",
        "    finish_now(blobs.renew(rows, named, now=group.now))\n",
        "",
        BLOBS,
    ),
    Guard(
        "store/sqlite/blobs.py",
        "what was stored for a submit may be deleted already",
        "    finish_now(blobs.check_kept(rows, stored, began=submission.began))\n",
        "",
        BLOBS,
    ),
    Guard(
        "store/sqlite/blobs.py",
        "arguments go before their task",
        "            finish_now(blobs.use(rows, task.blobs, made[task.id].number))\n",
        "            pass\n",
        BLOBS,
    ),
    Guard(
        "store/sqlite/finish.py",
        "an answer that is not there is taken",
        "running is not None and not (report.encoding in BLOBS and lacks_blob(group, report))",
        "running is not None",
        BLOBS,
    ),
    Guard(
        "store/sqlite/finish.py",
        "a late answer that is not there is taken",
        "        if lacks_blob(group, report):\n            return Decided(422)\n",
        "",
        BLOBS,
    ),
    Guard(
        "store/sqlite/finish.py",
        "an answer's blob goes before its task",
        "            keep_reported(group, running.number, report)\n",
        "            pass\n",
        BLOBS,
    ),
    Guard(
        "store/sqlite/finish.py",
        "a late answer's blob goes before its task",
        "    keep_reported(group, row.number, report)\n    write_change",
        "    write_change",
        BLOBS,
    ),
    # ---- the server
    Guard(
        "server/api/tasks.py",
        "an admin's look counts as a read",
        "row.state.is_terminal and row.spec.owner == call.caller.owner",
        "row.state.is_terminal",
        SERVER,
    ),
    Guard(
        "server/api/tasks.py",
        "a look before the end counts as a read",
        "row.state.is_terminal and row.spec.owner == call.caller.owner",
        "row.spec.owner == call.caller.owner",
        "tests/server/test_retention.py",
    ),
    Guard(
        "server/api/tasks.py",
        "a young id that is gone is told to be absent",
        "    if await state.store.is_gone(task, owner):\n",
        "    if False:\n",
        SERVER,
    ),
    Guard(
        "server/api/batches.py",
        "an admin's look at a batch counts as a read",
        "        if row.owner == call.caller.owner:\n",
        "        if True:\n",
        SERVER,
    ),
    Guard(
        "server/service/answers.py",
        "a stream waits for ever for what is purged",
        "    if behind > position:\n",
        "    if False:\n",
        SERVER,
    ),
    Guard(
        "server/service/answers.py",
        "a stream never hears of what is purged meanwhile",
        "        row.total, row.purged = now.total, now.purged\n",
        "        row.total = now.total\n",
        SERVER,
    ),
    Guard(
        "server/upkeep/prune.py",
        "every server prunes",
        "                if not await self._store.leads():\n                    continue\n",
        "",
        SERVER,
    ),
    Guard(
        "server/upkeep/prune.py",
        "pruning takes all of the writer",
        "        pause = PAUSE_SHARE * (loop.time() - begun)\n",
        "        pause = 0.0\n",
        SERVER,
    ),
    Guard(
        "server/upkeep/prune.py",
        "pruning knows no bound a minute",
        "            await self._sleep(left)\n",
        "",
        SERVER,
    ),
    Guard(
        "server/app.py",
        "what was read is lost at every stop",
        "            await state.first_reads.flush()\n",
        "            pass\n",
        SERVER,
    ),
    Guard(
        "server/upkeep/budget.py",
        "a full budget takes tasks",
        "        if self.is_full:\n            raise",
        "        if False:\n            raise",
        BUDGET,
    ),
    Guard(
        "server/upkeep/budget.py",
        "a burst passes between two looks",
        "        self.used_bytes += size_bytes\n",
        "",
        BUDGET,
    ),
    Guard(
        "server/upkeep/budget.py",
        "intake begins and ends at every look",
        "self.limit_bytes * (BACK_SHARE if self.is_full else 1.0)",
        "self.limit_bytes",
        BUDGET,
    ),
    Guard(
        "server/app.py",
        "a server that starts does not see what is stored",
        "    await state.budget.measure()\n",
        "",
        BUDGET,
    ),
    Guard(
        "server/api/blobs.py",
        "a blob that was found there goes",
        "        await state.store.renew_blob(name, now=state.clock())\n",
        "        pass\n",
        COLLECT,
    ),
    Guard(
        "server/api/blobs.py",
        "an upload that met its deletion counts as stored",
        ", began=began",
        "",
        COLLECT,
    ),
    Guard(
        "server/service/submit.py",
        "large arguments that met their deletion count as stored",
        "        began=began,\n",
        "        began=1e12,\n",
        COLLECT,
    ),
    Guard(
        "server/service/payload_blobs.py",
        "what a blob of arguments names goes before its task",
        "blobs + by_name.get(blobs[0], ()) if blobs else blobs",
        "blobs",
        COLLECT,
    ),
    Guard(
        "server/upkeep/collect.py",
        "young content is deleted",
        "            if blob.stored_at <= before:\n",
        "            if True:\n",
        COLLECT,
    ),
    Guard(
        "store/blob_names.py",
        "text that looks like a blob is one",
        r'"\$blob"\s*:\s*"(sha256',
        r'"(sha256',
        COLLECT,
    ),
]
