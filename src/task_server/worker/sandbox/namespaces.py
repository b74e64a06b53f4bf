"""The tree that a runner in namespaces sees: the system's programs, its environment, its folder."""

# At each start of a runner some fifty paths are looked at: as texts, in a quarter of the time.
# ruff: noqa: PTH114, PTH115, PTH116

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from task_server.worker.sandbox.files import (
    CONFIGURATION,
    DEVICES,
    SHARED_MEMORY,
    SYSTEM,
    Files,
    is_of_system,
)

TMP_BYTES = 256 << 20
_TREE, _NAMES, _QUEUES, _USER, _PROCESSES, _NETWORK = (
    *(0x00020000, 0x04000000, 0x08000000, 0x10000000),
    *(0x20000000, 0x40000000),
)

Place = tuple[str, str, str, str]
"""What `child.py` makes: kind, path, of what, and how."""
_PLAIN = ("link", "file")
"""Kinds that are no mount of their own."""


def plan(
    files: Files,
    *,
    root: Path,
    maps_user: bool,
    has_network: bool,
    uid: int,
    shared_bytes: int,
    door: int | None = None,
) -> dict[str, Any]:
    """What the runner does to enter; `root` is an empty folder, where the tree is put together.

    Without a network it may have a `door`: a descriptor for the socket that leads out of its own.
    """
    flags = _TREE | _NAMES | _QUEUES | _PROCESSES
    flags |= _USER if maps_user else 0
    flags |= 0 if has_network else _NETWORK
    return {
        "flags": flags,
        "maps_user": maps_user,
        "has_own_network": not has_network,
        "door": door,
        "root": str(root),
        "tree": _in_order(list(_tree(files, uid, shared_bytes))),
    }


def _in_order(tree: Sequence[Place]) -> list[Place]:
    """Folders before what is in them; first of all what can be made read-only in one go.

    That is most of it, and a call of the kernel for each part would be a third of the work.
    """
    others = tuple(f"{place[1]}/" for place in tree if not _is_sealed(place))
    early: list[Place] = []
    late: list[Place] = []
    for place in sorted(tree, key=_depth):
        if _is_sealed(place) and not place[1].startswith(others):
            kind, path, what, _ = place
            early.append((kind, path, what, ""))
        else:
            late.append(place)
    return [*early, ("seal", "", "", ""), *late]


def _is_sealed(place: Place) -> bool:
    return place[0] in _PLAIN or place[3] == "ro"


def _depth(place: Place) -> int:
    return place[1].count("/")


def _tree(files: Files, uid: int, shared_bytes: int) -> Iterator[Place]:
    yield from _system()
    users = f"root:x:0:0::/:/bin/sh\nrunner:x:{uid}:{uid}::{files.own}:/bin/sh\n"
    yield "file", "/etc/passwd", users, ""
    yield "file", "/etc/group", f"root:x:0:\nrunner:x:{uid}:\n", ""
    yield "mount", "/proc", "proc", ""
    own_tmp = ("tmpfs", f"mode=1777,size={TMP_BYTES}")
    yield "mount", "/tmp", *own_tmp
    if any(str(path).startswith("/var/tmp/") for path in _placed(files)):
        yield "mount", "/var/tmp", *own_tmp  # what is placed there would follow a link
    else:
        yield "link", "/var/tmp", "/tmp", ""
    yield from _part("/sys/devices/system", "ro")
    yield "mount", "/dev", "tmpfs", "mode=755,size=64k"
    yield "mount", SHARED_MEMORY, "tmpfs", f"mode=1777,size={shared_bytes}"
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        yield "link", f"/dev/{name}", f"/proc/self/fd{target}", ""
    for device in (*DEVICES, *files.devices):
        yield from _part(device, "dev")
    for path in (*files.readable, *files.nameable):
        if not is_of_system(path):
            yield from _part(str(path), "ro")
    yield "folder", str(files.own), str(files.own), "rw"  # it may not be there yet
    for path in files.writable:
        yield from _part(str(path), "rw")


def _placed(files: Files) -> Sequence[Path]:
    return (files.own, *files.readable, *files.nameable, *files.writable)


def _system() -> Iterator[Place]:
    for path in SYSTEM:
        if os.path.islink(path):
            yield "link", path, os.readlink(path), ""
        else:
            yield from _part(path, "ro")
    for path in CONFIGURATION:
        yield from _part(path, "ro")


def _part(path: str, how: str) -> Iterator[Place]:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    yield "folder" if stat.S_ISDIR(mode) else "node", path, path, how
