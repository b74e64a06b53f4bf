"""Guards of the rules: who may end a task, and how often it is tried."""

from tests.mutations.guards import Guard

FILE = "store/transitions.py"
TESTS = "tests/store/test_transitions.py tests/store/test_finish.py tests/store/test_crashes.py"


def _guard(name: str, text: str, without: str) -> Guard:
    return Guard(FILE, name, text, without, f"{TESTS} tests/store/test_cancel.py -k 'not postgres'")


GUARDS = [
    _guard(
        "an unknown task's answer is decided",
        "if row is None or not any_issued:",
        "if row is None:",
    ),
    _guard(
        "a repeated answer is refused",
        "if issued is not None and issued.told == (is_success, digest):",
        "if False:",
    ),
    _guard(
        "another answer passes for the same",
        "issued.told == (is_success, digest)",
        "issued.told is not None",
    ),
    _guard(
        "a second answer replaces the first",
        "    if row.state.is_terminal:\n        return Verdict(410",
        "    if False:\n        return Verdict(410",
    ),
    _guard(
        "an answer after the cancel is told to be late",
        "410 if row.state in (State.CANCELLED, State.EXPIRED) else 409",
        "409",
    ),
    _guard(
        "a lease that was never given ends the task",
        "    if issued is None:\n        return Verdict(409)",
        "",
    ),
    _guard(
        "a failure of a former holder ends the newer attempt",
        "if not issued.holds and not (is_success and policy.late_success):",
        "if not issued.holds and not policy.late_success:",
    ),
    _guard(
        "a late success is taken where it is switched off",
        "(is_success and policy.late_success)",
        "is_success",
    ),
    _guard(
        "a success is not taken late",
        "(is_success and policy.late_success)",
        "False",
    ),
    _guard(
        "kinds of failure that were not named are retried",
        "kind in row.retry_on and row.errors + 1 < row.max_attempts",
        "row.errors + 1 < row.max_attempts",
    ),
    _guard(
        "a task is retried once too often",
        "row.errors + 1 < row.max_attempts",
        "row.errors < row.max_attempts",
    ),
    _guard("failures are not counted", "change.errors += 1", "pass"),
    _guard(
        "an at-most-once task is started again",
        '    if row.at_most_once:\n        return _keep(row, State.FAILED, kind="lost")',
        "",
    ),
    _guard("a poison task is never stopped", "change.crashes += 1", "pass"),
    _guard(
        "a task that nobody ever got is poison",
        "change.undelivered += 1",
        "change.crashes += 1",
    ),
    _guard(
        "the cap of crashes is one off",
        "change.crashes >= policy.max_crashes",
        "change.crashes > policy.max_crashes",
    ),
    _guard(
        "undelivered leases have no cap",
        " or change.undelivered >= policy.max_undelivered",
        "",
    ),
    _guard(
        "a task given back unstarted costs a release",
        "change.unstarted += 1\n        return change",
        "change.unstarted += 1",
    ),
    _guard("releases have no cap", "if change.releases >= policy.max_releases and", "if False and"),
    _guard(
        "what was to be cancelled unless it started is queued again",
        "State.CANCELLED if is_withdrawn else State.QUEUED",
        "State.QUEUED",
    ),
    _guard("what was to be cancelled fails instead", " and not is_withdrawn:", ":"),
    _guard(
        "an ended task is cancelled again",
        "    if not state.is_terminal:\n",
        "    if True:\n",
    ),
    _guard(
        "a succeeded or running task is begun anew",
        "    if state not in (State.FAILED, State.CANCELLED, State.EXPIRED):\n",
        "    if False:\n",
    ),
    _guard("a retry waits longer than an hour", ", 3600.0)", ", 1e9)"),
    _guard("a retry comes at once", "max(1.0, jitter", "max(0.0, jitter"),
    _guard(
        "a crash's pause grows without bound", "min(2.0 ** min(crashes, 6), 60.0)", "2.0 ** crashes"
    ),
    _guard("all retries come at the same moment", "(0.5 + 0.5 * jitter)", "1.0"),
]
