"""Guards of what an operator meets: full disks, set clocks, damaged files, restored backups."""

from tests.mutations.guards import Guard

_SQLITE = "tests/store/sqlite"
_CLOCK = f"{_SQLITE}/test_clock.py"
_BACKUP = f"{_SQLITE}/test_backup.py"
_FULL = f"{_SQLITE}/test_full_disk.py"
_SPACE = "tests/server/test_space.py"
_EVENTS = "tests/server/test_events.py"


def _guard(file: str, name: str, text: str, without: str, tests: str) -> Guard:
    return Guard(file, name, text, without, tests)


GUARDS = [
    # ---- the clock
    _guard(
        "store/sqlite/restart.py",
        "a dead worker's lease hangs after the clock was set back",
        "        session.alive_until = until\n",
        "        session.alive_until = max(session.alive_until, until)\n",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/restart.py",
        "a plain worker's lease ends early when the clock is set ahead",
        "(by, group.now - by / 2)",
        "(0.0, group.now - by / 2)",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/restart.py",
        "a plain lease given since the clock was set hangs",
        "group.now - by / 2",
        "group.now + 1",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/restart.py",
        "new tasks pass those from before the clock was set back",
        "        _bring_back_queue(memory, now=group.now)\n",
        "",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/restart.py",
        "a clock set back while the server was away",
        "    _bring_back(memory, now=now)\n    if",
        "    if",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/restart.py",
        "new tasks pass those from before the clock was set back while the server was away",
        "        _bring_back_queue(memory, now=now)\n",
        "        pass\n",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/lease.py",
        "a task starts before it came",
        "max(group.now, task.submitted_at),  # the clock",
        "group.now,  # the clock",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/told.py",
        "a task ends before it started",
        "max(group.now, running.started_at)",
        "group.now",
        _CLOCK,
    ),
    _guard(
        "store/sqlite/change.py",
        "a cancelled task ends before it came",
        "max(group.now, row.submitted_at, row.started_at or 0.0)",
        "group.now",
        _CLOCK,
    ),
    _guard(
        "server/upkeep/expire.py",
        "leases end because the store could not be told of the clock",
        "            await self._store.extend_leases(by=self._set_by)\n"
        "            self._set_by = 0.0\n",
        "            by, self._set_by = self._set_by, 0.0\n"
        "            await self._store.extend_leases(by=by)\n",
        "tests/server/test_expire.py",
    ),
    # ---- the disk
    _guard(
        "store/sqlite/groups.py",
        "a submit to a full disk is told 503, and answers do not get the ballast's room",
        "            operations, error = self._make_room(operations, error)\n",
        "            pass\n",
        _FULL,
    ),
    _guard(
        "store/sqlite/store.py",
        "new tasks eat the ballast",
        "            is_intake=True,\n        )\n",
        "        )\n",
        _FULL,
    ),
    _guard(
        "server/upkeep/space.py",
        "the ballast's room is for new tasks",
        "            needed += self._ballast.missing_bytes\n",
        "            pass\n",
        _SPACE,
    ),
    _guard(
        "server/upkeep/space.py",
        "the ballast stays on a disk with nothing left",
        "        if _free(self._main) < ballast.size_bytes // 8:\n            self.make_room()\n",
        "",
        _SPACE,
    ),
    _guard(
        "server/service/submit.py",
        "submits do not heed a disk that is nearly full",
        "    state.space.check_intake()\n",
        "",
        "tests/e2e/test_disk_full.py",
    ),
    _guard(
        "store/sqlite/groups.py",
        "the log grows under reads that never pause",
        "        self._log_bound.keep()\n",
        "",
        f"{_SQLITE}/test_log_bound.py",
    ),
    # ---- files
    _guard(
        "store/sqlite/connection.py",
        "a damaged file is worked with",
        "                _check_pages(connection, path)\n",
        "                pass\n",
        f"{_SQLITE}/test_files.py",
    ),
    _guard(
        "store/sqlite/connection.py",
        "a database is upgraded beneath an older server",
        "        lock = hold_lock(path)\n    except DatabaseUnusable as error:",
        "        lock = os.open(path, os.O_RDONLY)\n    except DatabaseUnusable as error:",
        f"{_SQLITE}/test_migrations.py",
    ),
    _guard(
        "store/sqlite/connection.py",
        "a backup is worked with beside the log of another database",
        "    _check_log(path)\n",
        "",
        _BACKUP,
    ),
    _guard(
        "store/sqlite/filesystem.py",
        "a database lies on the network",
        "    if NETWORK.fullmatch(kind):",
        "    if False:",
        f"{_SQLITE}/test_filesystem.py",
    ),
    # ---- backups
    _guard(
        "store/sqlite/store.py",
        "leases outlive a restore",
        "        if is_restored(self._connection):",
        "        if False:",
        _BACKUP,
    ),
    _guard(
        "store/sqlite/restored.py",
        "sessions outlive a restore",
        "    _end_sessions(group)\n    _skip",
        "    _skip",
        _BACKUP,
    ),
    _guard(
        "store/sqlite/restored.py",
        "readers of ends miss some after a restore",
        "    _skip_places(group)\n    group",
        "    group",
        _BACKUP,
    ),
    _guard(
        "store/sqlite/restored.py",
        "what may start only once starts again after a restore",
        "    once = [kind.number for kind in kinds if kind.spec.at_most_once]",
        "    once: list[int] = []",
        _BACKUP,
    ),
    # ---- those who follow events
    _guard(
        "server/service/events.py",
        "who follows a batch reads on with a revoked token",
        "        if not await may_go_on():\n            return False\n",
        "        await may_go_on()\n",
        _EVENTS,
    ),
    _guard(
        "server/service/events.py",
        "who follows a batch holds up a server that stops",
        "    while not state.waiting.is_closed:\n",
        "    while True:\n",
        _EVENTS,
    ),
]
