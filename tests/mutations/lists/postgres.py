"""Guards of several servers on one database: fencing, races, and what is not known of a commit."""

from tests.mutations.guards import Guard

_TWO = "tests/store/postgres/test_two_servers.py"
_GROUPS = "tests/store/postgres/test_groups.py"
_AFTER = "tests/store/postgres/test_dependencies.py"
_PLANS = "tests/store/postgres/test_plans.py"


def _guard(file: str, name: str, text: str, without: str, tests: str) -> Guard:
    return Guard(f"store/postgres/{file}.py", name, text, without, tests)


def _store(words: str, *files: str) -> str:
    """Tests of the contract, on PostgreSQL."""
    paths = " ".join(f"tests/store/test_{file}.py" for file in files)
    return f"{paths} -k 'postgres and ({words})'"


GUARDS = [
    _guard(
        "reprice",
        "a task gets the price of another attempt",
        " AND t.attempt = w.attempt",
        "",
        _store("waits_again", "reprice"),
    ),
    _guard(
        "lease",
        "what a worker runs since long is forgotten",
        "        oldest[session] = min(oldest.get(session, first), first)\n",
        "        oldest[session] = waiter.number\n",
        "tests/store/test_lease.py -k since_long",
    ),
    _guard(
        "lease",
        "an exchange that a newer one follows elsewhere gets tasks",
        "AND s.number = w.number AND s.alive_until > $3",
        "AND s.alive_until > $3",
        f"{_TWO} -k older_parked",
    ),
    _guard(
        "finish",
        "another session's answer ends the task",
        "   AND t.session = w.session\nRETURNING",
        "RETURNING",
        _store("lease", "finish"),
    ),
    _guard(
        "finish",
        "an answer with another secret ends the task",
        "AND t.attempt = w.attempt AND t.secret = w.secret\n",
        "AND t.attempt = w.attempt\n",
        _store("secret", "finish"),
    ),
    _guard(
        "finish",
        "what a worker cannot build comes back in the same reply",
        "    group.broken[pair] = until\n",
        "",
        _store("very_exchange", "lease"),
    ),
    _guard(
        "sessions",
        "a session that moved back is not fenced",
        "number = greatest(s.number, o.new_number)",
        "number = s.number",
        f"{_TWO} -k 'newer or older_parked'",
    ),
    _guard(
        "parked",
        "a parked exchange does not hear of a newer one elsewhere",
        "        group.told.add(session.session)  # its last",
        "        pass  # its last",
        f"{_TWO} -k newer_exchange_elsewhere",
    ),
    _guard(
        "join",
        "an older session lives on at another server",
        "    group.told.update(session for (session,) in ended)\n",
        "",
        f"{_TWO} -k join_elsewhere",
    ),
    _guard(
        "join",
        "a join whose commit was not heard of ends its own session",
        "AND is_plain = 0 AND id <> $2\n",
        "AND is_plain = 0 AND $2 <> ''\n",
        f"{_GROUPS} -k a_join",
    ),
    _guard(
        "found",
        "a task that ends just now is waited for in vain",
        " ORDER BY t.number + 0 FOR SHARE OF t",
        " ORDER BY t.number + 0",
        f"{_AFTER} -k begins_as_the_other_ends",
    ),
    _guard(
        "found",
        "ids that the server made are stored twice",
        "if task.digest is not None or group.is_unsure\n",
        "if task.digest is not None\n",
        f"{_GROUPS} -k stored_once",
    ),
    _guard(
        "inserting",
        "a key that was used elsewhere meanwhile makes another task",
        '        raise Again("a key was used at another server meanwhile")\n',
        "        pass\n",
        f"{_TWO} -k key_used",
    ),
    _guard(
        "inserting",
        "a task is left behind by a lock that fails just now",
        " WHERE request = ANY($1::int[]) ORDER BY request FOR UPDATE",
        " WHERE request = ANY($1::int[]) ORDER BY request",
        f"{_AFTER} -k as_the_lock_fails",
    ),
    _guard(
        "dependencies",
        "more who wait than one group lets go are forgotten",
        "            await group.execute(_LEAVE, sorted(group.unfollowed))\n",
        "",
        f"{_AFTER} -k 'more_than or leader'",
    ),
    _guard(
        "cancel",
        "a place among the finished is given again",
        "    await group.execute(_KEEP_PLACES,",
        "    await group.fetch('SELECT $1::int[], $2::bigint[]',",
        _store("place_among", "cancel"),
    ),
    _guard(
        "change",
        "a worker at another server is not told to stop",
        "        self._group.told.add(row.session)\n",
        "",
        f"{_TWO} -k 'cancel_at or late_success'",
    ),
    _guard(
        "change",
        "a cancel of what was asked for before is not told",
        "DO UPDATE SET why = excluded.why WHERE stops.why = 'unstarted'",
        "DO NOTHING",
        _store("still_be_stopped", "withdrawn"),
    ),
    _guard(
        "held",
        "what was asked for and is held in vain is not told",
        " for told, why in session.stops if why != UNSTARTED}",
        " for told, _ in session.stops}",
        _store("in_vain", "withdrawn"),
    ),
    _guard(
        "cancel",
        "what is given back while the rest of its batch is cancelled waits again",
        "    locked = await read_locked(group, await lock_numbers(group, numbers))\n",
        "    locked = await read_locked(group, numbers)\n",
        f"{_TWO} -k given_back_while",
    ),
    _guard(
        "held",
        "a parked worker misses what a commit that nobody heard of gave it",
        "        group.given.setdefault(waiters[session], []).append(_dealt(group, row))\n",
        "        pass\n",
        f"{_GROUPS} -k reaches_it",
    ),
    _guard(
        "groups",
        "deadlocks are told to users",
        "isinstance(error, Again) or is_conflict(error):\n            return tries",
        "isinstance(error, Again):\n            return tries",
        f"{_GROUPS} -k deadlocks",
    ),
    _guard(
        "groups",
        "a request that cannot be stored fails its neighbours",
        "        if told is None and len(operations) > 1:\n",
        "        if False:\n",
        f"{_GROUPS} -k culprit",
    ),
    _guard(
        "groups",
        "places are given twice after a commit that nobody heard of",
        "            self._group.first_n = self._group.next_n = self.memory.next_n\n",
        "",
        f"{_GROUPS} -k 'places or waits_hears'",
    ),
    _guard(
        "following",
        "ends at another server are told only when somebody looks",
        "            self._follow(told.server, told.ended)\n",
        "            pass\n",
        f"{_TWO} -k who_waits_at_one",
    ),
    _guard(
        "following",
        "work is not found when the news of it is lost",
        "            await look_for_lanes(rows, self.memory)\n",
        "            pass\n",
        f"{_TWO} -k work_is_found",
    ),
    _guard(
        "store",
        "every server sweeps",
        "        while self.servers.leads and await",
        "        while await",
        f"{_TWO} -k leader",
    ),
    _guard(
        "clock",
        "new tasks pass those from before the clock was set back",
        "by < 0 or (latest or 0.0) > now",
        "by < 0",
        "tests/store/test_restart.py -k postgres",
    ),
    _guard(
        "servers",
        "leases run out because a server that was killed seems to live",
        "        if not self._doubted:\n",
        "        self._doubted = {}\n        if not self.has_others:\n",
        "tests/store/postgres/test_servers.py -k follows",
    ),
    _guard(
        "servers",
        "leases run out before it is known whether anybody could renew",
        " and not self._doubted\n",
        "\n",
        "tests/store/postgres/test_servers.py -k known",
    ),
    _guard(
        "lazily",
        "an owner is lifted once by each server",
        "        await group.execute(_LIFT, *columns(lifted))\n",
        "        await group.execute(\n"
        "            _CHARGE, *columns([(o, s) for o, s in lifted]), memory.server\n"
        "        )\n",
        f"{_TWO} -k idle",
    ),
    _guard(
        "upkeep",
        "a kind goes while another server still has it in memory",
        "group.now - REST_SECONDS, PIECE",
        "group.now, PIECE",
        "tests/store/postgres/test_forgetting.py",
    ),
    _guard(
        "finish",
        "plans walk the running tasks",
        "t.number = w.number AND t.state + 0 = 2 AND",
        "t.number = w.number AND t.state = 2 AND",
        _PLANS,
    ),
]
