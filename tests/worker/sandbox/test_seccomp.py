from __future__ import annotations

import errno
import platform
import struct

import pytest

from task_server.worker.sandbox import seccomp

X86, ARM = ("x86_64", 0xC000003E), ("aarch64", 0xC00000B7)
ALLOW, KILL = 0x7FFF0000, 0x80000000
NEW_USER, NEW_PROCESSES, THREAD = 0x10000000, 0x20000000, 0x003D0F00


def verdict(
    machine: str, name: int, number: int, *arguments: int, sockets: seccomp.Sockets = "all"
) -> int:
    """What the kernel would decide: it runs the program over what a call looks like."""
    seen = struct.pack("<IIQ6Q", number, name, 0, *arguments, *[0] * (6 - len(arguments)))
    lines = seccomp.program(sockets, machine)
    value, at = 0, 0
    while True:
        kind, then, otherwise, number = lines[at]
        if kind == 0x06:
            return number
        if kind == 0x20:
            value = struct.unpack_from("<I", seen, number)[0]
            jump = 0
        else:
            is_so = {0x15: value == number, 0x35: value >= number, 0x45: bool(value & number)}[kind]
            jump = then if is_so else otherwise
        at += 1 + jump


def error(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", [X86, ARM])
def test_ordinary_calls_are_allowed(machine: tuple[str, int]) -> None:
    numbers = {"x86_64": (0, 1, 2, 9, 39, 59, 61, 231), "aarch64": (56, 63, 64, 93, 172, 221, 222)}

    assert {verdict(*machine, number) for number in numbers[machine[0]]} == {ALLOW}


@pytest.mark.parametrize(("machine", "ptrace", "mount"), [(X86, 101, 165), (ARM, 117, 40)])
def test_what_reaches_out_is_refused(machine: tuple[str, int], ptrace: int, mount: int) -> None:
    assert verdict(*machine, ptrace) == verdict(*machine, mount) == error(errno.EPERM)


@pytest.mark.parametrize(("machine", "clone"), [(X86, 56), (ARM, 220)])
def test_processes_and_threads_are_allowed_and_namespaces_are_not(
    machine: tuple[str, int], clone: int
) -> None:
    assert verdict(*machine, clone, 17) == verdict(*machine, clone, THREAD) == ALLOW
    assert verdict(*machine, clone, 17 | NEW_USER) == error(errno.EPERM)
    assert verdict(*machine, clone, 17 | NEW_PROCESSES) == error(errno.EPERM)
    # The library then uses `clone`, whose flags can be seen.
    assert verdict(*machine, 435) == error(errno.ENOSYS)


@pytest.mark.parametrize(("machine", "ioctl"), [(X86, 16), (ARM, 29)])
def test_nothing_is_typed_into_a_terminal(machine: tuple[str, int], ioctl: int) -> None:
    assert verdict(*machine, ioctl, 0, 0x5412) == error(errno.EPERM)
    assert verdict(*machine, ioctl, 0, 0x5401) == ALLOW


@pytest.mark.parametrize(("machine", "socket"), [(X86, 41), (ARM, 198)])
def test_sockets_are_as_the_network_is_to_be(machine: tuple[str, int], socket: int) -> None:
    unix, internet = 1, 2

    assert verdict(*machine, socket, unix) == ALLOW
    assert verdict(*machine, socket, unix, sockets="no local") == error(errno.EACCES)
    assert verdict(*machine, socket, internet, sockets="no local") == ALLOW
    assert verdict(*machine, socket, internet, sockets="none") == error(errno.EACCES)


@pytest.mark.parametrize(("machine", "socket"), [(X86, 41), (ARM, 198)])
@pytest.mark.parametrize("sockets", ["all", "no local", "none"])
def test_the_machine_below_a_virtual_one_is_not_reached(
    machine: tuple[str, int], socket: int, sockets: seccomp.Sockets
) -> None:
    assert verdict(*machine, socket, 40, sockets=sockets) == error(errno.EACCES)


def test_calls_in_the_way_of_other_machines_end_the_process() -> None:
    i386, x32 = 0x40000003, 0x40000000 | 101

    assert verdict("x86_64", i386, 26) == KILL
    assert verdict(*X86, x32) == KILL
    assert verdict("aarch64", i386, 26) == KILL


def test_the_plan_is_the_program_as_the_kernel_reads_it() -> None:
    if not seccomp.is_known_machine():
        pytest.skip("the numbers of this machine's calls are not known")

    data = bytes.fromhex(seccomp.plan("all"))

    lines = list(struct.iter_unpack("=HBBI", data))
    assert lines == seccomp.program("all", platform.machine())
