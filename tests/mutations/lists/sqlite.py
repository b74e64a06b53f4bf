"""Guards of the verbs on SQLite: compare and set, fencing, what is counted and what is kept."""

from tests.mutations.guards import Guard

_TESTS = {
    "submit": "test_submit.py test_batches.py test_after.py test_order.py",
    "finish": "test_finish.py test_plain.py test_crashes.py test_cancel.py test_lease.py"
    " test_withdrawn.py",
    "change": "test_finish.py test_cancel.py test_sessions.py test_held.py test_withdrawn.py",
    "cancel": "test_cancel.py test_batches.py test_held.py test_sessions.py test_restart.py"
    " test_withdrawn.py",
    "sessions": "test_sessions.py test_held.py test_lease.py test_crashes.py test_restart.py"
    " test_withdrawn.py",
    "sweep": "test_sweep.py test_crashes.py test_plain.py test_sessions.py",
    "restart": "test_restart.py",
    "reprice": "test_reprice.py",
    "lease": "test_lease.py test_crashes.py test_plain.py",
    "connection": "sqlite/test_files.py",
    "groups": "sqlite/test_undo.py",
}
"""The tests of each verb, below tests/store."""


def _guard(file: str, name: str, text: str, without: str = "") -> Guard:
    tests = " ".join(f"tests/store/{test}" for test in _TESTS[file].split())
    return Guard(f"store/sqlite/{file}.py", name, text, without, f"{tests} -k 'not postgres'")


GUARDS = [
    _guard(
        "reprice",
        "a task gets the price of another attempt",
        " and row.attempt == wanted[row.number].attempt",
    ),
    _guard(
        "reprice",
        "a task beyond the window is not seen to come first",
        "        offer_row(group, row, crashes=row.crashes)\n        return\n",
        "        return\n",
    ),
    _guard(
        "submit",
        "another body passes for the same task",
        "if owner != submission.owner or digest != digests[task]:",
        "if owner != submission.owner:",
    ),
    _guard(
        "submit",
        "another owner's task passes for one's own",
        "if owner != submission.owner or digest != digests[task]:",
        "if digest != digests[task]:",
    ),
    _guard(
        "submit",
        "a key passes for another request",
        "    if digest != submission.key.digest:\n",
        "    if False:\n",
    ),
    _guard(
        "submit",
        "two bodies of one id in one request",
        "digests.setdefault(task.id, task.digest) != task.digest",
        "digests.setdefault(task.id, task.digest) is None",
    ),
    _guard(
        "submit",
        "tasks come into a closed batch",
        '        if not row[1]:\n            raise Conflict("the batch is closed',
        '        if False:\n            raise Conflict("the batch is closed',
    ),
    _guard(
        "submit",
        "a task may start before its time",
        "waiting = [\n        is_late or pending[task.id] > 0",
        "waiting = [\n        pending[task.id] > 0",
    ),
    _guard(
        "submit",
        "a task starts before those it waits for",
        "is_late or pending[task.id] > 0",
        "is_late",
    ),
    _guard(
        "finish",
        "a lease that is no more ends the task",
        "if running is None or (running.attempt, running.secret) != (lease.attempt, lease.secret):",
        "if running is None:",
    ),
    _guard(
        "finish",
        "a failure ends a task that has another try",
        'is_last = report.outcome == "succeeded" or running.kind.spec.max_attempts <= 1',
        "is_last = True",
    ),
    _guard(
        "finish",
        "two reports of one lease both count",
        "            del session.leases[running.number]\n",
        "",
    ),
    _guard(
        "finish",
        "a crash told by a former holder counts",
        "if row is None or issued is None or not issued.holds:",
        "if row is None or issued is None:",
    ),
    _guard(
        "finish",
        "a worker that is unfit gets the same task again",
        "        _mark_broken(group, session, row, report)",
        "        pass",
    ),
    _guard(
        "finish",
        "attempts of another worker pass for one's own",
        '" WHERE task = ? AND worker = ? AND generation = ?"',
        '" WHERE task = ? AND ? AND generation = ?"',
    ),
    _guard(
        "finish",
        "attempts of an older generation count",
        '" WHERE task = ? AND worker = ? AND generation = ?"',
        '" WHERE task = ? AND worker = ? AND ? >= 0"',
    ),
    _guard(
        "change",
        "an attempt that ended is forgotten",
        '    group.connection.execute(\n        "INSERT OR IGNORE INTO past_attempts',
        '    (lambda *ignored: None)(\n        "INSERT OR IGNORE INTO past_attempts',
    ),
    _guard(
        "change",
        "a worker is not told that its attempt is no more",
        "        if is_stopped and running is not None:\n",
        "        if False:\n",
    ),
    _guard(
        "change",
        "the secret of an attempt that did not win stays",
        '"UPDATE tasks SET state = w.column4, secret = NULL, outcome',
        '"UPDATE tasks SET state = w.column4, outcome',
    ),
    _guard(
        "cancel",
        "others' tasks are cancelled",
        "is_theirs = row is not None and (owner is None or row.kind.spec.owner == owner)",
        "is_theirs = row is not None",
    ),
    _guard(
        "cancel",
        "a cancelled attempt is not stopped",
        '            _tell(group, row, "cancelled")\n',
        "",
    ),
    _guard(
        "cancel",
        "a cancelled attempt is stopped at its next exchange only",
        "        group.tell.append(session)\n",
        "",
    ),
    _guard(
        "cancel",
        "a worker is not asked for what was cancelled unless it started",
        "        _tell(group, row, UNSTARTED)\n",
        "        pass\n",
    ),
    _guard(
        "finish",
        "what runs is cancelled as its worker ends",
        " and report.used is None,",
        ",",
    ),
    _guard(
        "change",
        "a later attempt ends for an earlier one's cancel",
        "return self.withdrawn_attempt == self.attempt",
        "return self.withdrawn_attempt is not None",
    ),
    _guard(
        "sessions",
        "what was asked for and is held in vain is not told",
        " for lease, why in session.stops if why != UNSTARTED}",
        " for lease, _ in session.stops}",
    ),
    _guard(
        "cancel",
        "counters live on in a new generation",
        "errors = 0, crashes = 0, undelivered = 0",
        "undelivered = 0",
    ),
    _guard(
        "cancel",
        "a place among the finished is given twice",
        "    group.keep_places()\n",
        "",
    ),
    _guard(
        "sessions",
        "an older session of a worker lives on",
        "            _supersede(group, session, older)\n",
        "            pass\n",
    ),
    _guard(
        "sessions",
        "a worker's id is taken with another token",
        '"SELECT worker FROM workers WHERE id = ? AND token = ?"',
        '"SELECT worker FROM workers WHERE id = ? AND ? >= 0"',
    ),
    _guard(
        "sessions",
        "a session is used with another token",
        "if session is None or session.token != request.token or session.facts.is_plain:",
        "if session is None or session.facts.is_plain:",
    ),
    _guard(
        "sessions",
        "a stale exchange takes tasks",
        "    if request.number < session.number:\n",
        "    if False:\n",
    ),
    _guard(
        "sessions",
        "an older exchange stays parked beside a newer",
        "        unpark(group, session.waiter)\n    session.number",
        "        pass\n    session.number",
    ),
    _guard(
        "sessions",
        "tasks of a lost reply are not sent again",
        "    result.tasks = _unseen_tasks(session)\n",
        "",
    ),
    _guard(
        "sessions",
        "what a worker no longer holds stays running",
        "        elif running.reply <= session.seen:\n            gone.append(running)",
        "        elif False:\n            gone.append(running)",
    ),
    _guard(
        "sessions",
        "a lease on its way counts as lost",
        "        elif running.reply <= session.seen:\n",
        "        else:\n",
    ),
    _guard(
        "sessions",
        "what an older session held stays running",
        "        lose(group, older, list(older.leases.values()))\n",
        "        pass\n",
    ),
    _guard(
        "sessions",
        "what was never started costs a crash",
        '        if is_alive and running.phase != "running":\n',
        "        if False:\n",
    ),
    _guard(
        "sessions",
        "what had started is given back for nothing",
        '        if is_alive and running.phase != "running":\n',
        "        if is_alive:\n",
    ),
    _guard(
        "sessions",
        "a lease that never arrived costs a crash",
        "was_delivered=session.seen >= running.reply,",
        "was_delivered=True,",
    ),
    _guard(
        "sessions",
        "a draining worker gets tasks",
        "want = 0 if request.draining else ",
        "want = ",
    ),
    _guard(
        "sweep",
        "a session that is silent keeps its tasks",
        "        lose(group, session, list(session.leases.values()))\n",
        "",
    ),
    _guard(
        "sweep",
        "a session that is heard of loses its tasks",
        "if session.facts.is_plain or session.alive_until > group.now:",
        "if session.facts.is_plain:",
    ),
    _guard(
        "sweep",
        "a task that runs expires",
        "WHERE x.start_by < ? AND t.state IN (0, 1) LIMIT ?",
        "WHERE x.start_by < ? AND t.state IN (0, 1, 2) LIMIT ?",
    ),
    _guard(
        "restart",
        "downtime ends leases",
        "    _extend_sessions(memory, until=now + lease_seconds)\n",
        "",
    ),
    _guard(
        "lease",
        "a worker is offered what it cannot build",
        "for worker, environment in broken if worker == session.worker",
        "for worker, environment in broken if False",
    ),
    _guard(
        "lease",
        "a plain lease has no end",
        "            _write_plain_end(group, dealt, waiter)\n",
        "            pass\n",
    ),
    _guard(
        "connection",
        "two servers work on one file",
        "fcntl.LOCK_EX | fcntl.LOCK_NB",
        "fcntl.LOCK_SH | fcntl.LOCK_NB",
    ),
    _guard(
        "groups",
        "a group that failed leaves its mark in the memory",
        "            self._load()\n",
        "            pass\n",
    ),
]
