"""Guards of the worker: no answer is lost, nothing runs twice or for nothing."""

from tests.mutations.guards import Guard

SPOOL = "tests/worker/test_spool.py"
SESSION = "tests/worker/test_session.py"
AGENT = "tests/worker/test_agent.py"

GUARDS = [
    Guard(
        "worker/child.py",
        "a runner empties whatever folder it is started in",
        "    check_folder(setup)\n",
        "",
        "tests/worker/test_child.py -k other_folder",
    ),
    Guard(
        "worker/spool.py",
        "half a line of a crash spoils the next",
        "        if whole < len(data):\n            os.truncate(self._path, whole)\n",
        "",
        SPOOL,
    ),
    Guard(
        "worker/spool.py",
        "half a line of a full disk spoils the next",
        "        os.ftruncate(descriptor, size)  # half a line would spoil the next one\n",
        "",
        SPOOL,
    ),
    Guard(
        "worker/spool.py",
        "a damaged line costs the others",
        "            except msgspec.DecodeError:\n                continue",
        "            except msgspec.DecodeError:\n                break",
        SPOOL,
    ),
    Guard(
        "worker/spool.py",
        "what others are acknowledged beside is forgotten",
        "        if not self.pending:\n            self._unwritten.clear()",
        "        if True:\n            self._unwritten.clear()",
        SPOOL,
    ),
    Guard(
        "worker/agent.py",
        "what may start only once goes on when its lease has run out",
        "            if self._holding.attempts and self._session.is_doubtful():",
        "            if False:",
        AGENT + " -k only_once",
    ),
    Guard(
        "worker/session.py",
        "a late reply renews what it was asked for long ago",
        "        self._renewed_at = max(self._renewed_at, asked_at)",
        "        self._renewed_at = time.monotonic()",
        SESSION,
    ),
    Guard(
        "worker/holding.py",
        "a task that came twice runs twice",
        "            if lease not in self.attempts and lease not in self._spool.pending:\n",
        "            if True:\n",
        AGENT,
    ),
    Guard(
        "worker/agent.py",
        "a draining worker ends before its answers are told",
        "        if not self._spool.pending:\n            return True\n",
        "        return True\n",
        AGENT,
    ),
    Guard(
        "worker/agent.py",
        "an at-most-once task is given back though it ran",
        "            elif attempt.assignment.at_most_once:",
        "            elif False:",
        AGENT,
    ),
    Guard(
        "worker/agent.py",
        "a failed exchange is not followed by the list of what is held",
        "            self._session.doubt()\n",
        "",
        AGENT,
    ),
    Guard(
        "worker/session.py",
        "a new session keeps the numbers of the old",
        "        self._number = self._seen = 0\n        self.doubt()",
        "        self.doubt()",
        f"tests/worker/test_session.py {AGENT}",
    ),
    Guard(
        "worker/session.py",
        "a report ends the parked exchange",
        "        number = self._number - 1\n        if not is_parked or number < 1:",
        "        number = self._number\n        if True:",
        f"tests/worker/test_session.py {AGENT}",
    ),
    Guard(
        "worker/large.py",
        "half a large answer passes for a whole one",
        "shutil.rmtree(folder, ignore_errors=True)  # a crash came before it was whole",
        "pass",
        AGENT,
    ),
]
