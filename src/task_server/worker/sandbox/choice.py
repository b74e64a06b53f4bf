"""Choosing the highest mixture of layers that really works on this machine."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from task_server.errors import TaskServerError
from task_server.machine import is_loopback
from task_server.settings import WorkerSettings
from task_server.worker.launch import compiled_child
from task_server.worker.sandbox import cgroups, landlock, seccomp
from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.limits import RunnerLimits, share_of_memory
from task_server.worker.sandbox.probes import Examined, examine
from task_server.worker.sandbox.relay import Relay
from task_server.worker.sandbox.sandbox import Policy, Sandbox
from task_server.worker.sandbox.uids import Uids, closed_folder, is_root

log = logging.getLogger(__name__)

_WITHOUT_GROUPS = (0, 3)
"""Highest levels that do without control groups."""
_WITH_CALLS_REFUSED = 1
"""The lowest level with seccomp."""
_WITH_NAMESPACES = 3
"""The lowest such level."""


class SandboxTooWeak(TaskServerError):
    """This machine cannot hold strangers' code as firmly as the worker was told to."""


class Wishes(Struct, frozen=True, kw_only=True):
    """What the worker was told about its sandbox."""

    policy: Policy
    lowest: int = 0
    highest: int = 4
    first_uid: int
    last_uid: int
    may_run_as_root: bool = False


def wishes_of(settings: WorkerSettings, data: Path) -> Wishes:
    """What the settings say; `data` is the worker's folder. Raises SandboxTooWeak."""
    first, last = _range(settings.runner_uids)
    lowest = settings.min_sandbox
    if lowest is None:
        lowest = 0 if is_loopback(urlsplit(settings.server).hostname or "") else 1
    limits = RunnerLimits(
        memory_bytes=settings.memory_bytes or share_of_memory(settings.slots),
        is_share=settings.memory_bytes is None,
        processes=settings.processes,
        file_bytes=settings.file_bytes,
        cpus=settings.cpus,
        network=settings.network,
    )
    policy = Policy(
        limits=limits,
        readable=_paths(settings.readable),
        writable=_paths(settings.writable),
        nameable=(data / "blobs",),
    )
    return Wishes(
        policy=policy,
        lowest=lowest,
        highest=settings.max_sandbox,
        first_uid=first,
        last_uid=last,
        may_run_as_root=settings.i_know_root_runners,
    )


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not (first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise SandboxTooWeak(f"--runner-uids is {text!r}; it has to be two numbers, as 64000-64999")
    return int(first), int(last)


def _paths(text: str) -> tuple[Path, ...]:
    return tuple(Path(each).expanduser().absolute() for each in text.split(os.pathsep) if each)


class Chosen(Struct, frozen=True):
    """The sandbox, what its probes gave, and why there is none better."""

    sandbox: Sandbox
    examined: Examined
    missing: list[str]

    @property
    def level(self) -> int:
        """What the worker may say of itself."""
        return self.examined.layers.level


class Machine(Struct, frozen=True):
    """What this machine might hold."""

    landlock: int
    seccomp: bool
    namespaces: bool
    is_root: bool
    groups: cgroups.Groups | None

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        is_linux = sys.platform.startswith("linux")
        return cls(
            landlock=landlock.version(),
            seccomp=seccomp.is_known_machine(),
            namespaces=is_linux and Path("/proc/self/ns/pid").exists(),
            is_root=is_root(),
            groups=cgroups.found() if is_linux else None,
        )

    def mixtures(self, highest: int, *, may_run_as_root: bool) -> Iterator[Layers]:
        """What to try, best first; the uid is left out only where that was allowed."""
        best = Layers(
            landlock=self.landlock if highest >= 1 else 0,
            seccomp=self.seccomp and highest >= 1,
            uid=self.is_root,
            namespace=self.namespaces and self.seccomp and highest >= 3,
            maps_user=not self.is_root,
            cgroup=self.groups is not None and highest not in _WITHOUT_GROUPS,
        )
        less = msgspec.structs.replace
        tree = best.namespace
        tries = [best, less(best, cgroup=False)]
        tries += [less(each, namespace=False) for each in tries if tree]
        tries += [less(each, landlock=0) for each in tries if each.landlock and tree]
        bare = Layers(uid=best.uid, cgroup=best.cgroup)
        tries += [bare, less(bare, cgroup=False)]
        if may_run_as_root:
            tries += [less(each, uid=False) for each in tries]
        yield from sorted(dict.fromkeys(tries), key=lambda each: -each.level)


async def choose(
    wishes: Wishes,
    *,
    interpreter: Path,
    directory: Path,
    relay: Relay | None = None,
    machine: Machine | None = None,
) -> Chosen:
    """Try mixtures, the best first, until one holds.

    `directory` is where the worker's runners will be; `relay` leads to the package indexes. Raises
    SandboxTooWeak when none holds, or none that is good enough; it says what is missing.
    """
    machine = machine or Machine.here()
    _check_network(wishes, machine)
    if machine.groups is not None:
        machine.groups.sweep()
    child = compiled_child(interpreter, directory / "shared")
    uids = Uids(wishes.first_uid, wishes.last_uid)
    missing: list[str] = []
    for layers in machine.mixtures(wishes.highest, may_run_as_root=wishes.may_run_as_root):

        def make(root: Path, layers: Layers = layers) -> Sandbox:
            return Sandbox(
                layers,
                wishes.policy,
                root=root,
                uids=uids,
                groups=machine.groups,
                relay=relay,
            )

        reason = _unreachable(layers, interpreter, directory)
        reason = reason or layers.lack_for(wishes.policy.limits.network)
        if not reason:
            try:
                examined = await examine(
                    make, interpreter=interpreter, child=child, directory=directory
                )
                reason = "; ".join(examined.not_held)
            except OSError as error:
                reason = str(error)
        if not reason:
            root = directory / "root"
            root.mkdir(exist_ok=True)
            chosen = Chosen(make(root), examined, missing)
            _check(chosen.level, wishes.lowest, missing)
            return chosen
        missing.append(f"{_described(layers)}: {reason}")
    raise SandboxTooWeak(_refusal(wishes, missing))


def _unreachable(layers: Layers, interpreter: Path, directory: Path) -> str:
    """Why runners under other uids cannot work, without a tree of their own; "" if they can."""
    if not layers.uid or layers.namespace:
        return ""
    for path in (interpreter, directory):
        if folder := closed_folder(path):
            return (
                f"runners work under uids of their own, and these cannot enter {folder} on the way"
                f" to {path}; allow it with `chmod o+x {folder}`, or use one elsewhere"
                " (for Python: that of the system, /usr/bin/python3)"
            )
    return ""


def _check_network(wishes: Wishes, machine: Machine) -> None:
    network, why = wishes.policy.limits.network, ""
    if network == "internet":
        why = _without_internet(machine)
        if not why and wishes.highest in _WITHOUT_GROUPS:
            why = f"--max-sandbox {wishes.highest} does without control groups"
    elif network == "index-only":
        why = _without_own_network(wishes, machine)
    elif network == "none":
        why = _without_refusals(wishes, machine)
    if why:
        raise SandboxTooWeak(f"--network {network} cannot be held here: {why}")


def _without_own_network(wishes: Wishes, machine: Machine) -> str:
    if not (machine.namespaces and machine.seccomp):
        return "this worker cannot give tasks a network of their own"
    if wishes.highest < _WITH_NAMESPACES:
        return f"--max-sandbox {wishes.highest} does without networks of their own"
    return ""


def _without_refusals(wishes: Wishes, machine: Machine) -> str:
    if not machine.seccomp:
        return "this worker cannot refuse tasks system calls"
    if wishes.highest < _WITH_CALLS_REFUSED:
        return f"--max-sandbox {wishes.highest} refuses tasks no system calls"
    return ""


def _without_internet(machine: Machine) -> str:
    if machine.groups is None:
        return "this worker cannot make control groups"
    return machine.groups.without_internet


def _described(layers: Layers) -> str:
    names = ("landlock", "seccomp", "uid", "namespace", "cgroup")
    return " + ".join(name for name in names if getattr(layers, name)) or "a process alone"


def _check(level: int, lowest: int, missing: list[str]) -> None:
    if level < lowest:
        told = "".join(f"\n  {each}" for each in missing)
        raise SandboxTooWeak(
            f"the sandbox reaches level {level} here, and --min-sandbox asks for {lowest}; "
            f"`task-server doctor --worker` says how to get higher{told}"
        )


def _refusal(wishes: Wishes, missing: list[str]) -> str:
    told = "".join(f"\n  {each}" for each in missing)
    if is_root() and not wishes.may_run_as_root:
        return (
            "functions never run as root, and here they cannot run under uids of their own;"
            " start the worker as another user, mend what is named below, or say"
            f" --i-know-root-runners{told}"
        )
    return f"no runner can be started here{told}"


def hints(chosen: Chosen, machine: Machine | None = None) -> list[str]:
    """How to get to a higher level on this machine."""
    machine = machine or Machine.here()
    layers, found = chosen.examined.layers, []
    if not machine.landlock:
        found.append(
            "landlock: needs Linux 5.13 or newer with `landlock` in the boot option `lsm=`"
        )
    if not machine.seccomp:
        found.append("seccomp: built for x86_64 and aarch64 on Linux only")
    if not machine.is_root:
        found.append("uid: start the worker as root; it becomes another user for each runner")
    if not layers.namespace:
        found.append(
            "namespace: start the worker as root, or let users make namespaces"
            f" ({_namespace_hint()}); a container needs `--security-opt seccomp=unconfined"
            " --security-opt systempaths=unconfined` or is the boundary itself"
        )
    if not layers.cgroup:
        found.append(
            "limits: give the worker a control group over (systemd: `Delegate=yes`), or start it"
            " as root where /sys/fs/cgroup can be written"
        )
    if why := _without_internet(machine):
        found.append(f"network: `--network internet` cannot be had: {why}")
    return found


def _namespace_hint() -> str:
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if os.path.exists(restricted) and restricted.read_text().strip() == "1":  # noqa: PTH110
        return "AppArmor restricts them: sysctl kernel.apparmor_restrict_unprivileged_userns=0"
    return "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone"
