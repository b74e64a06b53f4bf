"""Guards of packages: only what is locked, allowed and of the right place is installed."""

from tests.mutations.guards import Guard

INSTALLING = "tests/worker/test_installing.py"
ENVIRONMENTS = "tests/worker/test_environments.py"

GUARDS = [
    Guard(
        "worker/installing.py",
        "a worker installs what it does not allow",
        "        self._rules.check_policy([pin.name for pin in lock.pins])\n",
        "",
        f"{INSTALLING} -k allow",
    ),
    Guard(
        "worker/installing.py",
        "a name of the private index is taken from the public one",
        "            if private is not None and private.has(pin.name):\n",
        "            if False:\n",
        f"{INSTALLING} -k another_place",
    ),
    Guard(
        "worker/installing.py",
        "a bomb fills the disk",
        "                if _written_bytes(pid) > 2 * self.most_bytes + _SLACK_BYTES:\n",
        "                if False:\n",
        f"{INSTALLING} -k bomb",
    ),
    Guard(
        "worker/installing.py",
        "an uploaded wheel that is gone is taken from the index",
        "            if pin.name not in there:\n",
        "            if False:\n",
        f"{INSTALLING} -k gone",
    ),
    Guard(
        "worker/installing.py",
        "what an installer did by half is taken for installed",
        "            if place.content() != before:\n",
        "            if False:\n",
        f"{ENVIRONMENTS} -k by_half",
    ),
    Guard(
        "worker/environment_folders.py",
        "an environment that is too large is kept",
        "    rules.check_size(*content[:2])\n",
        "",
        f"{INSTALLING} -k too_large",
    ),
    Guard(
        "worker/environment_folders.py",
        "a damaged environment is used",
        'manifest.get("content") == content',
        "True",
        f"{ENVIRONMENTS} -k replaced",
    ),
    Guard(
        "worker/environments.py",
        "another lock than the one asked for is installed",
        "    if lock.digest != digest:\n",
        "    if False:\n",
        f"{ENVIRONMENTS} -k asked_for",
    ),
    Guard(
        "worker/environment_folders.py",
        "an environment may be written",
        "found.st_mode & 0o777 & ~_WRITABLE)",
        "found.st_mode & 0o777)",
        f"{ENVIRONMENTS} -k nobody_may_write",
    ),
    Guard(
        "worker/environment_folders.py",
        "what was written in place is not seen",
        "max(written_at, found.st_mtime_ns)",
        "0",
        f"{ENVIRONMENTS} -k in_place",
    ),
    Guard(
        "worker/building.py",
        "a damaged environment is made of the same files",
        "            await self._clear_away(damaged, workshop, lock)\n",
        "            remove(damaged)\n",
        f"{ENVIRONMENTS} -k in_place",
    ),
    Guard(
        "server/uv_lock.py",
        "a full disk of the server makes it lock all the time",
        "        raise LockFailed(message, is_retryable=True) from None\n\n\nclass _Resolver",
        "        raise\n\n\nclass _Resolver",
        "tests/server/test_uv_lock.py -k takes_nothing",
    ),
]
