"""The internet without the machine and its neighbours, for the runners of one control group.

Small programs, made here instruction by instruction, are given to the kernel for the group. It asks
one about every packet that leaves, whatever sent it, and one about every connection, so that a
refused one fails at once instead of running out of time.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import platform
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from task_server.worker.child import Kernel

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Instruction = tuple[int, int, int, int | str, int]
"""Kind, target register, source register, a distance or the name of where to go, a number."""

RESOLVERS: Final = Path("/etc/resolv.conf")
DENIED: Final = tuple(
    ipaddress.IPv4Network(each)
    for each in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16"),
        *("172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15", "224.0.0.0/3"),
    )
)
"""The machine, its links with the services of clouds on them, private networks, groups."""
DENIED_GLOBAL: Final = tuple(ipaddress.IPv6Network(each) for each in ("2001::/32", "2002::/16"))
"""IPv6 addresses with others inside; of the rest only those of the internet are allowed."""

_LOAD_WORD, _LOAD_BYTE, _LOAD_HALF = 0x61, 0x71, 0x69
_MOVE, _SET, _ADD, _AND, _SHIFT = 0xBF, 0xB7, 0x07, 0x54, 0x64
_GO, _IF_EQUAL, _IF_NOT, _CALL, _EXIT = 0x05, 0x16, 0x56, 0x85, 0x95
_RESULT, _FIRST, _SECOND, _THIRD, _FOURTH, _CONTEXT, _WORD, _PORT, _STACK = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    10,
)
_LOAD_BYTES_OF_PACKET = 26
_IPV4, _IPV6, _DNS = 0x0008, 0xDD86, 0x3500  # in the order of bytes on the wire
_TCP, _UDP = 6, 17
_LOOPBACK_DEVICE = 1
_BPF_CALL = {"x86_64": 321, "aarch64": 280}
_LOAD, _ATTACH, _BESIDE_OTHERS = 5, 8, 2
_EGRESS, _CONNECT_IPV4, _CONNECT_IPV6 = (8, 1), (18, 10), (18, 11)
"""Kinds of programs: what the kernel shows them, and when."""


def missing(folder: Path | None) -> str:
    """Why groups in `folder` cannot have the internet alone; "" if they can."""
    if folder is None:
        return "control groups of version 2 are not mounted where the worker may use them"
    if platform.machine() not in _BPF_CALL:
        return "it is built for x86_64 and aarch64 on Linux only"
    try:
        os.close(_load(_EGRESS, _egress(())))
    except OSError as error:
        return f"the kernel takes no programs for control groups from this user ({error.strerror})"
    return ""


def restrict(folder: Path) -> None:
    """Let what runs in a control group reach the internet and the resolvers. Raises OSError."""
    resolvers = resolvers_in(RESOLVERS)
    group = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for kind, code in (
            (_EGRESS, _egress(resolvers)),
            (_CONNECT_IPV4, _connect(resolvers, 4)),
            (_CONNECT_IPV6, _connect(resolvers, 6)),
        ):
            program = _load(kind, code)
            try:
                _bpf(_ATTACH, struct.pack("=IIII", group, program, kind[1], _BESIDE_OTHERS))
            finally:
                os.close(program)
    finally:
        os.close(group)


def resolvers_in(path: Path) -> list[Address]:
    """The servers that names are looked up with: they may be at addresses that are denied."""
    found: list[Address] = []
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return found
    for line in lines:
        word, _, text = line.strip().partition(" ")
        if word == "nameserver":
            try:
                found.append(ipaddress.ip_address(text.strip().partition("%")[0]))
            except ValueError:
                continue
    return found


# ---- the programs


def _egress(resolvers: Sequence[Address]) -> list[Instruction | str]:
    """About a packet; the kernel shows it from its IP header on."""
    return [
        (_MOVE, _CONTEXT, _FIRST, 0, 0),
        (_LOAD_WORD, _WORD, _CONTEXT, 16, 0),
        (_IF_EQUAL, _WORD, 0, "packet 4", _IPV4),
        (_IF_NOT, _WORD, 0, "deny", _IPV6),
        *_copy_of_packet(-40, 40),
        (_LOAD_BYTE, _WORD, _STACK, -40 + 6, 0),
        (_SET, _SECOND, 0, 0, 42),
        *_port_of_packet("6"),
        *_resolvers_6(resolvers, _STACK, -40 + 24),
        *_unless_loopback(),
        (_LOAD_WORD, _WORD, _STACK, -40 + 24, 0),
        *_check_6(),
        "packet 4",
        *_copy_of_packet(-40, 20),
        (_LOAD_BYTE, _SECOND, _STACK, -40, 0),
        (_AND, _SECOND, 0, 0, 0xF),
        (_SHIFT, _SECOND, 0, 0, 2),
        (_ADD, _SECOND, 0, 0, 2),
        (_LOAD_BYTE, _WORD, _STACK, -40 + 9, 0),
        *_port_of_packet("4"),
        (_LOAD_WORD, _WORD, _STACK, -40 + 16, 0),
        *_resolvers_4(resolvers),
        *_unless_loopback(),
        *_check_4(),
        *_ends(),
    ]


def _connect(resolvers: Sequence[Address], version: int) -> list[Instruction | str]:
    """About a connection that is asked for."""
    code: list[Instruction | str] = [
        (_MOVE, _CONTEXT, _FIRST, 0, 0),
        (_LOAD_WORD, _PORT, _CONTEXT, 24, 0),
    ]
    if version == 6:
        code += _resolvers_6(resolvers, _CONTEXT, 8)
        for at, number in ((8, 0), (12, 0), (16, 0xFFFF)):  # IPv4 inside goes out as IPv4
            code += [(_LOAD_WORD, _WORD, _CONTEXT, at, 0), (_IF_NOT, _WORD, 0, "6", _wire(number))]
        code += [(_LOAD_WORD, _WORD, _CONTEXT, 20, 0), (_GO, 0, 0, "4", 0)]
        code += ["6", (_LOAD_WORD, _WORD, _CONTEXT, 8, 0), *_check_6()]
    else:
        code.append((_LOAD_WORD, _WORD, _CONTEXT, 4, 0))
    return [*code, "4", *_resolvers_4(resolvers), *_check_4(), *_ends()]


def _copy_of_packet(at: int, size: int) -> Iterator[Instruction]:
    """Its first bytes to the stack."""
    yield (_SET, _SECOND, 0, 0, 0)
    yield from _load_bytes(at, size)
    yield (_IF_NOT, _RESULT, 0, "deny", 0)


def _load_bytes(at: int, size: int) -> Iterator[Instruction]:
    yield (_MOVE, _FIRST, _CONTEXT, 0, 0)
    yield (_MOVE, _THIRD, _STACK, 0, 0)
    yield (_ADD, _THIRD, 0, 0, at)
    yield (_SET, _FOURTH, 0, 0, size)
    yield (_CALL, 0, 0, 0, _LOAD_BYTES_OF_PACKET)


def _port_of_packet(name: str) -> Iterator[Instruction | str]:
    """The port that it is for, or none; its protocol is in the word, the place in the second."""
    yield (_SET, _PORT, 0, 0, 0)
    yield (_IF_EQUAL, _WORD, 0, f"has port {name}", _TCP)
    yield (_IF_NOT, _WORD, 0, f"port {name}", _UDP)
    yield f"has port {name}"
    yield from _load_bytes(-48, 2)
    yield (_IF_NOT, _RESULT, 0, f"port {name}", 0)
    yield (_LOAD_HALF, _PORT, _STACK, -48, 0)
    yield f"port {name}"


def _resolvers_4(resolvers: Sequence[Address]) -> Iterator[Instruction | str]:
    yield (_IF_NOT, _PORT, 0, "no question 4", _DNS)
    for each in resolvers:
        if each.version == 4:
            yield (_IF_EQUAL, _WORD, 0, "allow", _wire(int(each)))
    yield "no question 4"


def _resolvers_6(
    resolvers: Sequence[Address], register: int, at: int
) -> Iterator[Instruction | str]:
    yield (_IF_NOT, _PORT, 0, "no question 6", _DNS)
    for number, each in enumerate(each for each in resolvers if each.version == 6):
        for word in range(4):
            wanted = int(each) >> 32 * (3 - word) & 0xFFFFFFFF
            yield (_LOAD_WORD, _WORD, register, at + 4 * word, 0)
            yield (_IF_NOT, _WORD, 0, f"not {number}", _wire(wanted))
        yield (_GO, 0, 0, "allow", 0)
        yield f"not {number}"
    yield "no question 6"


def _unless_loopback() -> Iterator[Instruction]:
    """Whatever goes to an address of the machine, a public one too, goes by this device."""
    yield (_LOAD_WORD, _SECOND, _CONTEXT, 40, 0)
    yield (_IF_EQUAL, _SECOND, 0, "deny", _LOOPBACK_DEVICE)


def _check_4() -> Iterator[Instruction]:
    """The address is in the word."""
    for network in DENIED:
        yield from _denied(int(network.network_address), int(network.netmask))
    yield (_GO, 0, 0, "allow", 0)


def _check_6() -> Iterator[Instruction]:
    """The first part of the address is in the word."""
    yield (_MOVE, _SECOND, _WORD, 0, 0)
    yield (_AND, _SECOND, 0, 0, _wire(0xE0000000))
    yield (_IF_NOT, _SECOND, 0, "deny", _wire(0x20000000))
    for network in DENIED_GLOBAL:
        yield from _denied(int(network.network_address) >> 96, int(network.netmask) >> 96)
    yield (_GO, 0, 0, "allow", 0)


def _denied(address: int, mask: int) -> Iterator[Instruction]:
    yield (_MOVE, _SECOND, _WORD, 0, 0)
    yield (_AND, _SECOND, 0, 0, _wire(mask))
    yield (_IF_EQUAL, _SECOND, 0, "deny", _wire(address))


def _ends() -> list[Instruction | str]:
    return [
        *("allow", (_SET, _RESULT, 0, 0, 1), (_EXIT, 0, 0, 0, 0)),
        *("deny", (_SET, _RESULT, 0, 0, 0), (_EXIT, 0, 0, 0, 0)),
    ]


def _wire(number: int) -> int:
    """As the kernel sees a number of 32 bits that is in the order of bytes on the wire."""
    found: int = struct.unpack("=i", struct.pack("!I", number))[0]
    return found


# ---- the kernel


def _load(kind: tuple[int, int], code: Sequence[Instruction | str]) -> int:
    assembled = _assembled(code)
    lines = ctypes.create_string_buffer(assembled, len(assembled))
    licence = ctypes.create_string_buffer(b"")
    asked = struct.pack(
        "=IIQQIIQII16sII",
        *(kind[0], len(assembled) // 8, ctypes.addressof(lines), ctypes.addressof(licence)),
        *(0, 0, 0, 0, 0, b"task_server", 0, kind[1]),
    )
    return _bpf(_LOAD, asked)


def _assembled(code: Sequence[Instruction | str]) -> bytes:
    places: dict[str, int] = {}
    count = 0
    for each in code:
        if isinstance(each, str):
            places[each] = count
        else:
            count += 1
    lines = [each for each in code if not isinstance(each, str)]
    return b"".join(
        struct.pack("=BBhi", kind, source << 4 | target, _distance(places, at, where), number)
        for at, (kind, target, source, where, number) in enumerate(lines)
    )


def _distance(places: dict[str, int], at: int, where: int | str) -> int:
    return where if isinstance(where, int) else places[where] - at - 1


def _bpf(command: int, asked: bytes) -> int:
    number = _BPF_CALL[platform.machine()]
    return Kernel().call("syscall", number, command, asked, len(asked))
