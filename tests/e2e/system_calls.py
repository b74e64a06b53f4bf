"""What a program asked of the kernel, as strace wrote it down, in the order in which it happened.

strace writes a line when it sees a call end, and two when something else came between its begin and
its end. A thread goes on only after strace has seen its call end, so what is caused by a call
stands on a later line: the numbers of lines are an order of what happened.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cached_property

CALLS = (
    *("read", "readv", "recvfrom", "recvmsg"),
    *("write", "writev", "sendto", "sendmsg", "pwrite64", "pwritev", "pwritev2"),
    *("fsync", "fdatasync", "sync_file_range", "syncfs", "msync"),
    *("openat", "close", "ftruncate", "fallocate", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "mkdir", "mkdirat", "rmdir", "link", "linkat", "dup", "dup3"),
)
RECEIVING = frozenset({"read", "readv", "recvfrom", "recvmsg"})
SENDING = frozenset({"write", "writev", "sendto", "sendmsg"})
SYNCING = frozenset({"fsync", "fdatasync"})

_LINE = re.compile(r"(\d+) +[\d.]+ (?:<\.\.\. (\w+) resumed>|(\w+)\()")
_RESULT = re.compile(r"\) += (-?\d+|\?)(.*)")
_UNFINISHED = " <unfinished ...>"
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_FILE = re.compile(r"(?:\d+)?<((?:->|[^<>])*)")


def command(
    output: str, *, longest: int = 8192, calls: Iterable[str] = CALLS, faults: Iterable[str] = ()
) -> list[str]:
    """How to start a program so that `parse` can read what it does.

    `longest`: bytes kept of each buffer; `faults`: what strace is to inject.
    """
    traced = ["strace", "-f", "--seccomp-bpf", "-ttt", "-yy", "-xx", "-s", str(longest)]
    injected = [part for fault in faults for part in ("-e", f"inject={fault}")]
    return [*traced, "-o", output, "-e", f"trace={','.join(calls)}", "-e", "signal=none", *injected]


class Call:
    """One system call; what is read out of its arguments is kept, for it is replayed many times."""

    def __init__(self, thread: int, name: str, begun: int) -> None:
        self.thread = thread
        self.name = name
        self.begun = begun
        """Place in the order of all that happened."""
        self.ended: int | None = None
        """None: it never did."""
        self.result: int | None = None
        """None: not known, it did not return."""
        self.is_injected = False
        """strace answered it; the kernel never saw it."""
        self.arguments = ""
        self.opened = ""
        """What a call that opens a file gave a descriptor of."""

    def __repr__(self) -> str:
        return f"<{self.begun} {self.name} {self.file} = {self.result}>"

    @cached_property
    def file(self) -> str:
        """The path, or the ends of the connection, of the first descriptor."""
        found = _FILE.match(self.arguments)
        return _text(found[1]) if found else ""

    @property
    def descriptor(self) -> int:
        """The first argument, a number."""
        return int(re.split(r"[<,]", self.arguments, maxsplit=1)[0])

    @cached_property
    def numbers(self) -> list[int]:
        """The plain numbers among the arguments."""
        return [int(each) for each in self.arguments.split(", ") if each.isdecimal()]

    @cached_property
    def strings(self) -> list[bytes]:
        """The texts and buffers among the arguments."""
        return [bytes.fromhex(text.replace("\\x", "")) for text, _ in _found(self.arguments)]

    @property
    def data(self) -> bytes:
        """What was transferred, as far as strace kept it."""
        return b"".join(self.strings)

    @cached_property
    def is_cut(self) -> bool:
        """Whether strace kept only the beginning of a buffer."""
        return any(dots for _, dots in _found(self.arguments))

    @property
    def has_synced(self) -> bool:
        """Whether it brought a file to disk."""
        return self.name in SYNCING and self.result == 0 and not self.is_injected


def _found(arguments: str) -> list[tuple[str, str]]:
    return _STRING.findall(arguments)


def _text(shown: str) -> str:
    if shown.startswith("\\x"):
        return bytes.fromhex(shown.replace("\\x", "")).decode(errors="replace")
    return shown


def parse(lines: Iterable[str]) -> list[Call]:
    """The calls, in the order of their begin."""
    open_calls: dict[int, Call] = {}
    return [call for number, line in enumerate(lines) for call in _read(number, line, open_calls)]


def _read(number: int, line: str, open_calls: dict[int, Call]) -> Iterator[Call]:
    found = _LINE.match(line)
    if found is None:
        return  # how a thread ended
    thread = int(found[1])
    if found[2]:
        call = open_calls.pop(thread)
    else:
        call = Call(thread, found[3], number)
        yield call
    rest = line[found.end() :].rstrip()
    # Where the result stands is sought from the end: buffers are long, and all in hexadecimal.
    at = rest.rfind(")", 0, rest.rfind(" = ") + 1)
    result = _RESULT.match(rest, at) if at >= 0 else None
    is_open = _UNFINISHED in rest[-40:]
    call.arguments += rest.partition(_UNFINISHED)[0] if is_open else rest[:at]
    if is_open or result is None:
        open_calls[thread] = call
        return
    call.ended = number
    call.result = None if result[1] == "?" else int(result[1])
    call.is_injected = "(INJECTED" in result[2]
    opened = _FILE.match(result[2])
    call.opened = _text(opened[1]) if opened else ""
