"""The sandbox of a worker: it confines each runner with the layers that are on."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from msgspec import Struct

from task_server.protocol.workers import Limits
from task_server.worker.launch import RunnerSpec
from task_server.worker.sandbox import landlock, namespaces, seccomp
from task_server.worker.sandbox.cgroups import Group, Groups
from task_server.worker.sandbox.confinement import Confinement
from task_server.worker.sandbox.doors import Door
from task_server.worker.sandbox.files import Files, folders_of
from task_server.worker.sandbox.layers import Layers
from task_server.worker.sandbox.limits import (
    OOM_SCORE,
    RunnerLimits,
    kernel_limits,
    share_of_memory,
)
from task_server.worker.sandbox.relay import Relay
from task_server.worker.sandbox.uids import Uids


class Policy(Struct, frozen=True, kw_only=True):
    """What the worker was told about its runners."""

    limits: RunnerLimits
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    nameable: tuple[Path, ...] = ()


class Sandbox:
    """Confines runners; `root` is an empty folder that the private tree is put together on.

    `relay` leads runners to the package indexes that may reach nothing else.
    """

    def __init__(
        self,
        layers: Layers,
        policy: Policy,
        *,
        root: Path,
        uids: Uids | None = None,
        groups: Groups | None = None,
        relay: Relay | None = None,
    ) -> None:
        self.layers = layers
        self.policy = policy
        self._root = root
        self._uids = uids if layers.uid else None
        self._groups = groups if layers.cgroup else None
        self._relay = relay
        self._own_threads = 0 if layers.uid else own_threads()

    def limits_for(self, asked: Limits | None) -> RunnerLimits:
        """The limits of a runner whose tasks ask for these. Raises OSError if that is not built."""
        if asked is None:
            return self.policy.limits
        try:
            return self.policy.limits.at_most(asked, memory_bytes=share_of_memory(1))
        except ValueError as error:
            raise OSError(str(error)) from error

    def told_apart(self, asked: Limits | None) -> Limits | None:
        """What runners are told apart by: what any has is left out."""
        return self.policy.limits.told_apart(asked)

    def confine(self, spec: RunnerSpec, limits: RunnerLimits | None = None) -> Confinement:
        """What a runner of that kind gets. Raises OSError."""
        limits = limits or self.policy.limits
        if lack := self.layers.lack_for(limits.network):
            raise OSError(lack)
        with contextlib.ExitStack() as undo:
            if (door := self._door(limits)) is not None:
                undo.callback(door.close)
            group = self._groups.make(limits) if self._groups is not None else None
            if group is not None:
                undo.callback(group.remove)
            uid = self._uids.take() if self._uids is not None else None
            undo.pop_all()
        return Confinement(
            self._plan(spec, limits, uid, door) | _of_group(group),
            level=self.layers.level,
            uid=uid,
            group=group,
            door=door,
            memory_bytes=limits.memory_bytes,
            on_end=lambda: self._give_back(uid),
        )

    def _door(self, limits: RunnerLimits) -> Door | None:
        if limits.network != "index-only":
            return None
        if self._relay is None:
            raise OSError("this worker has no way to the package indexes alone")
        return Door(self._relay)

    def _give_back(self, uid: int | None) -> None:
        if uid is not None and self._uids is not None:
            self._uids.give_back(uid)

    def _plan(
        self, spec: RunnerSpec, limits: RunnerLimits, uid: int | None, door: Door | None
    ) -> dict[str, Any]:
        layers = self.layers
        plan: dict[str, Any] = {
            "oom_score": OOM_SCORE,
            "limits": kernel_limits(limits, layers, own_threads=self._own_threads),
            "is_confined": layers != Layers(cgroup=layers.cgroup),
        }
        files = self._files(spec)
        if uid is not None:
            plan |= {"uid": uid, "gid": uid}
        if layers.landlock:
            plan["landlock"] = landlock.plan(files, layers.landlock)
        if layers.seccomp:
            plan["seccomp"] = seccomp.plan(self._sockets(limits))
        if layers.namespace:
            plan["namespace"] = namespaces.plan(
                files,
                root=self._root,
                maps_user=layers.maps_user,
                has_network=limits.network not in ("none", "index-only"),
                door=None if door is None else door.number,
                uid=os.getuid() if uid is None else uid,
                shared_bytes=limits.memory_bytes,
            )
        return plan

    def _sockets(self, limits: RunnerLimits) -> seccomp.Sockets:
        if self.layers.namespace:
            return "all"
        # Landlock does not see connections to sockets in the file system, such as the user's bus.
        return "none" if limits.network == "none" else "no local"

    def _files(self, spec: RunnerSpec) -> Files:
        readable = [*folders_of(spec.interpreter), spec.child.parent, *self.policy.readable]
        readable += [each for each in (spec.site_packages, spec.cloudpickle) if each is not None]
        return Files(
            own=spec.directory,
            readable=tuple(dict.fromkeys(readable)),
            nameable=self.policy.nameable,
            writable=self.policy.writable,
            devices=spec.devices,
            is_private=self.layers.namespace,
        )


def _of_group(group: Group | None) -> dict[str, Any]:
    return {} if group is None else {"groups": group.entrances}


def own_threads() -> int:
    """How many threads this process's user has running: the kernel counts them together."""
    count, uid = 0, os.getuid() if hasattr(os, "getuid") else 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if folder.stat().st_uid == uid:
                count += len(list((folder / "task").iterdir()))
    return count
