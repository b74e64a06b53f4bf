"""Guards of the sandbox: what runners and the installer must not be able to do."""

from tests.mutations.guards import Guard

TREE = "tests/worker/sandbox/test_namespaces.py"
FENCE = "tests/worker/sandbox/test_fence.py"
SECCOMP = "tests/worker/sandbox/test_seccomp.py"
BYTECODE = "tests/worker/test_bytecode.py -k changed"
ALONE = "tests/worker/test_alone.py"
FILES = "tests/worker/sandbox/test_files.py"

GUARDS = [
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
        "worker/sandbox/fence.py",
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
]
