"""Guards of what tasks require: it is there, it is free, and nothing is promised twice."""

from tests.mutations.guards import Guard

_PURE = "tests/scheduling/test_requires.py"
_STORE = "tests/store/test_requires.py -k 'not postgres'"
_POSTGRES = "tests/store/test_requires.py -k 'postgres'"
_SERVER = "tests/server/test_requires.py"
_SLOTS = "tests/worker/test_slots.py"


GUARDS = [
    Guard(
        "scheduling/deal.py",
        "a lane's requirements are passed over",
        "if lane.requires is not None and not self.has(lane.requires, ever=ever):",
        "if False:",
        _PURE,
    ),
    Guard(
        "scheduling/deal.py",
        "one deal gives more than there is",
        "if lane.requires is not None and not room.has(lane.requires):",
        "if False:",
        _PURE,
    ),
    Guard(
        "scheduling/deal.py",
        "a plain worker gets what requires something",
        "return self.is_plain and requires.stated == NOTHING",
        "return True",
        _PURE,
    ),
    Guard(
        "scheduling/deal.py",
        "several that take resources share one slot",
        " or (requires is not None and requires.takes):",
        ":",
        _PURE,
    ),
    Guard(
        "scheduling/deal.py",
        "what is held is not counted",
        "self.long += self.free.take(requires)",
        "self.long += 1",
        _PURE,
    ),
    Guard(
        "scheduling/requires.py",
        "memory is promised twice",
        "if self.memory_for(requires) > max(self.memory, 0):",
        "if False:",
        _PURE,
    ),
    Guard(
        "scheduling/requires.py",
        "a prediction keeps a task from every worker",
        "min(requires.reserved, self.all_memory)",
        "requires.reserved",
        "tests/scheduling/test_memory.py",
    ),
    Guard(
        "scheduling/memory.py",
        "what states its memory gets another",
        "if stated.memory or not size:",
        "if not size:",
        "tests/scheduling/test_memory.py",
    ),
    Guard(
        "worker/sandbox/limits.py",
        "a prediction lifts a bound that somebody set",
        "return asked.reserved or 0 if self.is_share else 0",
        "return asked.reserved or 0",
        "tests/worker/sandbox/test_layers.py",
    ),
    Guard(
        "scheduling/requires.py",
        "GPUs are promised twice",
        "if requires.gpu and requires.gpu > self.gpu:",
        "if False:",
        _PURE,
    ),
    Guard(
        "scheduling/deal.py",
        "smaller tasks pass what needs much, for ever",
        "    _keep_for_the_first(rooms, lanes, shares, now)\n",
        "",
        _PURE,
    ),
    Guard(
        "store/sqlite/lease.py",
        "smaller tasks pass what needs much, for ever",
        "        now=group.now,\n        ahead=",
        "        ahead=",
        _STORE,
    ),
    Guard(
        "store/postgres/lease.py",
        "smaller tasks pass what needs much, for ever",
        "                now=group.now,\n",
        "",
        _POSTGRES,
    ),
    Guard(
        "scheduling/requires.py",
        "more cores are promised than there are",
        "return not requires.cpu or requires.cpu <= self.cpu + ROUNDING",
        "return True",
        _PURE,
    ),
    Guard(
        "scheduling/requires.py",
        "cores are promised twice",
        "return max(math.ceil(requires.cpu * self.slots / self.cpu - ROUNDING), 1)",
        "return 1",
        _PURE,
    ),
    Guard(
        "scheduling/requires.py",
        "labels are passed over",
        "return all(labels.get(name) == value for name, value in requires.labels)",
        "return True",
        _PURE,
    ),
    Guard(
        "store/sqlite/lease.py",
        "what runs is not counted",
        "requires=running.requires",
        "requires=None",
        _STORE,
    ),
    Guard(
        "store/sqlite/restart.py",
        "what runs is not counted after a restart",
        "            requires=requires,\n",
        "",
        _STORE,
    ),
    Guard(
        "store/postgres/lease.py",
        "what runs is not counted",
        "requires = requires_of(memory.kinds[kind].spec.requires)",
        "requires = None",
        _POSTGRES,
    ),
    Guard(
        "store/postgres/group.py",
        "what is free again at one server is not dealt by another",
        "        if self.memory.kinds[kind].spec.requires:\n",
        "        if False:\n",
        "tests/store/postgres/test_two_servers.py -k report_frees",
    ),
    Guard(
        "server/service/specs.py",
        "a task that requires something is offered to plain workers",
        ' and isolation == "reuse" and not requires,',
        ' and isolation == "reuse",',
        _SERVER,
    ),
    Guard(
        "server/service/assignments.py",
        "a task may use what it does not require",
        "if required is not None and required.takes:",
        "if False:",
        _SERVER,
    ),
    Guard(
        "worker/slots.py",
        "a GPU is not given back",
        "        self._devices.give_back(self._devices_of.pop(runner, ()))\n",
        "",
        _SLOTS,
    ),
    Guard(
        "worker/slots.py",
        "an idle runner keeps its GPU for ever",
        "            if missing > 0 and runner in idle:",
        "            if False:",
        _SLOTS,
    ),
    Guard(
        "worker/devices.py",
        "tasks without GPUs see all of them",
        " if names or self._are_known else {}",
        " if names else {}",
        _SLOTS,
    ),
    Guard(
        "scheduling/deal.py",
        "tasks are dealt ahead though that is turned off",
        "for is_ahead in (False, True) if ahead else (False,):",
        "for is_ahead in (False, True):",
        "tests/store/test_policy.py -k 'not postgres'",
    ),
    Guard(
        "scheduling/shares.py",
        "weights of owners are passed over",
        "return seconds / self.weights.get(owner, 1.0)",
        "return seconds",
        "tests/scheduling/test_shares.py",
    ),
]
