"""Guards of the sandbox: what runners and the installer must not be able to do."""

from tests.mutations.guards import Guard

TREE = "tests/worker/sandbox/test_namespaces.py"
FENCE = "tests/worker/sandbox/test_fence.py"
NETWORK = "tests/worker/sandbox/test_network.py"
INDEX_ONLY = "tests/worker/sandbox/test_index_only.py"
RELAY = "tests/worker/sandbox/test_relay.py"
INSTALLING = "tests/worker/test_installing.py"
SECCOMP = "tests/worker/sandbox/test_seccomp.py"
BYTECODE = "tests/worker/test_bytecode.py -k changed"
ALONE = "tests/worker/test_alone.py"
PROBES = "tests/worker/sandbox/test_probes.py"
FILES = "tests/worker/sandbox/test_files.py"

GUARDS = [
    Guard(
        "worker/child.py",
        "memory, processes and processors of a runner are counted for nobody",
        '        write_to(path, "0")',
        "        pass",
        f"{PROBES} -k mixture",
    ),
    Guard(
        "worker/child.py",
        "what is to be read only can be written",
        '    set_mount(kernel, root, MOUNT_ATTRIBUTES["ro"], AT_RECURSIVE)\n',
        "",
        TREE,
    ),
    Guard(
        "worker/child.py",
        "what is to be read only in something writable can be written",
        "        set_mount(kernel, path, MOUNT_ATTRIBUTES[how], AT_RECURSIVE)\n",
        "        pass\n",
        TREE,
    ),
    Guard(
        "worker/sandbox/namespaces.py",
        "what lies in something writable is hidden by it",
        "        if _is_sealed(place) and not place[1].startswith(others):\n",
        "        if _is_sealed(place):\n",
        TREE,
    ),
    Guard(
        "worker/sandbox/fence.py",
        "the installer reads the token and writes where it likes",
        "    child.restrict_files(kernel, plan)\n",
        "",
        FENCE,
    ),
    Guard(
        "worker/sandbox/fence.py",
        "the installer makes namespaces",
        '    child.restrict_calls(kernel, seccomp.plan("no local"))\n',
        "",
        FENCE,
    ),
    Guard(
        "worker/sandbox/fence.py",
        "the installer of a worker that is root keeps its capabilities",
        "    kept = _OF_FILES & _capabilities()\n",
        "    kept = _capabilities()\n",
        FENCE,
    ),
    Guard(
        "worker/sandbox/own_network.py",
        "the worker gives up what only the installer should",
        "    thread.start()\n    thread.join()\n",
        "    run()\n",
        FENCE,
    ),
    Guard(
        "worker/sandbox/seccomp.py",
        "system calls under other numbers get through",
        "        lines += _when(_JUMP_GREATER_EQUAL, _OTHER_ABI, [(_RETURN, 0, 0, _KILL)])\n",
        "        pass\n",
        SECCOMP,
    ),
    Guard(
        "worker/sandbox/seccomp.py",
        "the flags of clone3 cannot be looked at and get through",
        "    lines += _when(_JUMP_EQUAL, _CLONE3[column], [_error(errno.ENOSYS)])\n",
        "",
        SECCOMP,
    ),
    Guard(
        "worker/bytecode.py",
        "a source that a function changed is compiled for all environments",
        "                os.unlink(target)\n",
        "                pass\n",
        BYTECODE,
    ),
    Guard(
        "worker/alone.py",
        "a second worker ends the runners of the first",
        "        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "        pass\n",
        ALONE,
    ),
    Guard(
        "worker/sandbox/network.py",
        "a public address of the machine is reached",
        '    yield (_IF_EQUAL, _SECOND, 0, "deny", _LOOPBACK_DEVICE)\n',
        "",
        f"{NETWORK} -k of_its_own",
    ),
    Guard(
        "worker/sandbox/network.py",
        "private addresses are reached inside IPv6 sockets",
        '[(_LOAD_WORD, _WORD, _CONTEXT, 20, 0), (_GO, 0, 0, "4", 0)]',
        '[(_GO, 0, 0, "allow", 0)]',
        f"{NETWORK} -k nearer",
    ),
    Guard(
        "worker/sandbox/network.py",
        "a resolver is reached at every port",
        '    yield (_IF_NOT, _PORT, 0, "no question 4", _DNS)\n',
        "",
        f"{NETWORK} -k questions",
    ),
    Guard(
        "worker/sandbox/cgroups.py",
        "nothing is refused",
        "                network.restrict(folders[NETWORK])\n",
        "                pass\n",
        f"{NETWORK} -k nearer",
    ),
    Guard(
        "worker/sandbox/choice.py",
        "a worker starts that cannot hold its tasks to the internet",
        "    _check_network(wishes, machine)\n",
        "",
        f"{NETWORK} -k missing",
    ),
    Guard(
        "worker/sandbox/relay.py",
        "whatever a function asks for is reached",
        "        if not await self._indexes.have(asked.place):\n",
        "        if False:\n",
        f"{RELAY} -k nothing_else",
    ),
    Guard(
        "worker/sandbox/relay.py",
        "a second request on a connection is passed on",
        "                await _pump(there[0], writer)  # what follows the request is nobody's\n",
        "                await _tunnel((reader, writer), there)\n",
        f"{RELAY} -k second",
    ),
    Guard(
        "worker/sandbox/relay.py",
        "a function takes all files that the worker may have open",
        "            if len(here) <= CONNECTIONS:\n",
        "            if here:\n",
        f"{RELAY} -k no_more_than",
    ),
    Guard(
        "worker/sandbox/sandbox.py",
        "a function reaches more than the package indexes",
        '                has_network=limits.network not in ("none", "index-only"),\n',
        '                has_network=limits.network != "none",\n',
        f"{INDEX_ONLY} -k around",
    ),
    Guard(
        "worker/sandbox/sandbox.py",
        "a task runs that cannot be held to the package indexes",
        "        if self._relay is None:\n",
        "        if False:\n",
        f"{INDEX_ONLY} -k could_not",
    ),
    Guard(
        "worker/sandbox/sandbox.py",
        "a task runs that cannot be held to the network it asks for",
        "            raise OSError(lack)\n",
        "            pass\n",
        f"{PROBES} -k not_started",
    ),
    Guard(
        "worker/sandbox/choice.py",
        "a worker whose layers do not work starts with more network than it was told",
        "        reason = reason or layers.lack_for(wishes.policy.limits.network)\n",
        "",
        f"{PROBES} -k come_to_nothing",
    ),
    Guard(
        "worker/sandbox/fence.py",
        "the installer reaches what the worker reaches",
        "                self._network.enter()\n",
        "",
        f"{INSTALLING} -k reaches",
    ),
    Guard(
        "worker/indexes.py",
        "whatever an index's page links to is reached",
        "[^\"'<>\\s]*\\.(?:whl|zip|tar\\.gz)\\b",
        "",
        "tests/worker/test_indexes.py -k says_that",
    ),
    Guard(
        "worker/sandbox/seccomp.py",
        "the host of a virtual machine is reached",
        "        denied = [_OF_VIRTUAL_MACHINES, *",
        "        denied = [*",
        SECCOMP,
    ),
]
