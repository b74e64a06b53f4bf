"""Seccomp: which system calls a runner has. A list of what is denied, since packages need much.

The filter is a program for the kernel, made here instruction by instruction: nothing is needed but
the numbers of the calls on this machine.
"""

from __future__ import annotations

import errno
import functools
import platform
import struct
import sys
from collections.abc import Sequence
from typing import Literal

Sockets = Literal["all", "no local", "none"]
"""`no local`: none to services of the machine; pairs of sockets are always there."""

_DENIED: dict[str, tuple[int, int]] = {  # on x86_64 and aarch64
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "acct": (163, 89),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
}
_CLONE, _CLONE3, _IOCTL, _SOCKET = (56, 220), (435, 435), (16, 29), (41, 198)
_NEW_NAMESPACES = 0x7E020000
"""The flags of `clone` that make namespaces."""
_PUSH_INPUT, _LINUX_CONSOLE = 0x5412, 0x541C
"""Requests to a terminal that type into it."""
_LOCAL, _OF_VIRTUAL_MACHINES = 1, 40
"""Families of sockets. The latter lead to the machine below, whatever network a process is in."""
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_OTHER_ABI = 0x40000000

_LOAD, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _ERROR = 0x80000000, 0x7FFF0000, 0x00050000
_NUMBER, _MACHINE, _ARGUMENT = 0, 4, 16
"""Where these stand in what the kernel shows; arguments are 8 bytes each, low half first."""

Instruction = tuple[int, int, int, int]


def is_known_machine() -> bool:
    """Whether the numbers of this machine's system calls are known here."""
    return sys.platform.startswith("linux") and platform.machine() in _MACHINES


@functools.lru_cache(maxsize=8)
def plan(sockets: Sockets, machine: str = "") -> str:
    """The program for this machine, or another one, in hexadecimal."""
    lines = program(sockets, machine or platform.machine())
    return b"".join(struct.pack("=HBBI", *line) for line in lines).hex()


def program(sockets: Sockets, machine: str) -> list[Instruction]:
    """The instructions: kind, how far to jump when it is so and when not, and a number."""
    column, name = _MACHINES[machine]
    lines = [(_LOAD, 0, 0, _MACHINE), *_unless(_JUMP_EQUAL, name, [(_RETURN, 0, 0, _KILL)])]
    lines.append((_LOAD, 0, 0, _NUMBER))
    if machine == "x86_64":
        lines += _when(_JUMP_GREATER_EQUAL, _OTHER_ABI, [(_RETURN, 0, 0, _KILL)])
    for number in sorted(numbers[column] for numbers in _DENIED.values()):
        lines += _when(_JUMP_EQUAL, number, [_error(errno.EPERM)])
    # So that the C library falls back to `clone`, whose flags can be looked at.
    lines += _when(_JUMP_EQUAL, _CLONE3[column], [_error(errno.ENOSYS)])
    lines += _with_argument(
        _CLONE[column], 0, _when(_JUMP_ANY_BIT, _NEW_NAMESPACES, [_error(errno.EPERM)])
    )
    requests = [
        *_when(_JUMP_EQUAL, _PUSH_INPUT, [_error(errno.EPERM)]),
        *_when(_JUMP_EQUAL, _LINUX_CONSOLE, [_error(errno.EPERM)]),
    ]
    lines += _with_argument(_IOCTL[column], 1, requests)
    if sockets == "none":
        lines += _when(_JUMP_EQUAL, _SOCKET[column], [_error(errno.EACCES)])
    else:
        denied = [_OF_VIRTUAL_MACHINES, *([_LOCAL] if sockets == "no local" else [])]
        refused = [_when(_JUMP_EQUAL, family, [_error(errno.EACCES)]) for family in denied]
        lines += _with_argument(_SOCKET[column], 0, [line for each in refused for line in each])
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def _error(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERROR | number)


def _when(test: int, value: int, then: Sequence[Instruction]) -> list[Instruction]:
    return [(test, 0, len(then), value), *then]


def _unless(test: int, value: int, then: Sequence[Instruction]) -> list[Instruction]:
    return [(test, len(then), 0, value), *then]


def _with_argument(number: int, argument: int, then: Sequence[Instruction]) -> list[Instruction]:
    """Look at an argument of one call; whatever is not refused by it is allowed."""
    load = (_LOAD, 0, 0, _ARGUMENT + 8 * argument)
    return _when(_JUMP_EQUAL, number, [load, *then, (_RETURN, 0, 0, _ALLOW)])
